"""HTTP: views that parse, call one verb, commit and answer."""
