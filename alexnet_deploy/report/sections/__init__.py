"""The parts of a report's page: each is a function from the document to HTML, empty where it has nothing to show."""
