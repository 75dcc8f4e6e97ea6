"""Questions over points: fitting chips, comparisons, capacity, cost, crossovers."""
