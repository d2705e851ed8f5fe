"""What people see of an evaluation: a table, pictures, and a page that has everything."""
