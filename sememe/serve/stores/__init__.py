"""Where events, histories and the live catalogue are kept: SQLite, Valkey or Redis, PostgreSQL; and what was shown."""
