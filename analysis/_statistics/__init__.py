"""From the values of samples to means, intervals, landmarks and verdicts."""
