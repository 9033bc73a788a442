"""Built-in images for `maskery demo` and for the tests."""
