"""Ray at the edge: placement, node groups that host members, the committee, the chain actor, the supervisor."""
