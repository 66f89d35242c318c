"""Ray: the connection to a cluster, pools of actors, and Tune; no other room imports it at its top."""
