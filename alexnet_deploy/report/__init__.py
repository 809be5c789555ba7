"""Results for people: terminal tables, Markdown, and one self-contained HTML page."""
