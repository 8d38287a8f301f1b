"""`flock-ray deployment deploy`: deploys the contracts to an existing chain, once.

    python jobs/deploy.py chain.url=https://… chain.chain_id=84532 chain.keystore=/keys 'timelock.proposers=[0x…]'

A second run sends what is missing, or only checks.
"""

from flock_ray.commands.main import start

if __name__ == "__main__":
    start("deployment", "deploy")
