"""Long jobs over files: uploads, the worker that runs them, results in any format, progress as events."""
