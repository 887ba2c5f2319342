"""The order of the stages: what a configuration makes them do, told before it is done, and done."""
