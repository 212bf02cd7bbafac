"""What people read: tables, page, figures, bundle."""
