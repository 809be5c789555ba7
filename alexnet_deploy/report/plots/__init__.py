"""The pictures of a report, as inline SVG: colours come from the page's style sheet."""
