"""The `sememe` command."""
