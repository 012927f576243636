"""Files and mappings → core types. Strict: an unknown or repeated key is an error, never ignored."""
