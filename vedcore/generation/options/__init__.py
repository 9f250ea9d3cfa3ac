"""Options of ``generate``: their fields and bounds, which of them go together, and the search that they ask for."""
