"""Workers on Ray: session, placement, fair sharing and the reducer; Ray is imported here only."""
