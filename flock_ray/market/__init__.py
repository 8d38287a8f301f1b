"""The marketplace: a registry of verified models, a gateway that meters their answers, and the money for them."""
