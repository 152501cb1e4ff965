"""Jobs on a cluster that runs elsewhere: sent through Ray Jobs, followed, stopped, gone on with."""
