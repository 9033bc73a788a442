"""Pages that need nothing beside them: templates, charts."""
