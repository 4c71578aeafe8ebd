"""What it costs, as ratios measured in one run: ours, what a user would do instead, and the limit."""

from traj.pipeline.threads import wait_briefly

wait_briefly()  # as the command line does
