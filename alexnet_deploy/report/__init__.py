"""Results for people: a terminal table and one self-contained HTML page."""
