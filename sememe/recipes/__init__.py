"""One published system per file, composed from public parts."""
