"""Questions over many estimates: the planner, sweeps, and the bulk tables that serve both."""
