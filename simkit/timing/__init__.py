"""What all engines share: roofs, what measured kernels cost, exchanges between chips, and the account of causes."""
