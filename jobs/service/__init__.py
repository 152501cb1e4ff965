"""Jobs on Ray clusters: submitted and followed here, run on the cluster, and a local cluster."""
