"""Which class a state comes from: decisions between classes along trajectories."""
