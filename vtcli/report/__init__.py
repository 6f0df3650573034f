"""What people look at: tables, JSON, CSV. Knows no engine: it renders what it is given."""
