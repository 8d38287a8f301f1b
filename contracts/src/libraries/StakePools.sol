// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @notice Stake that waits to be paid out, in shares of its own, so that a slash reaches all of it in one step.
/// @param assets Wei that the shares are worth together.
/// @param shares Shares of all requests; never fewer than `assets`.
/// @param generation Counts the times that a slash took everything; older shares are worth nothing.
struct Thawing {
    uint96 assets;
    uint104 shares;
    uint32 generation;
}

/// @notice One epoch's request to leave: shares of a `Thawing` and the generation that they belong to.
struct Request {
    uint104 shares;
    uint32 generation;
}

/// @notice An operator's pool, in storage slots by what is used together.
/// @dev `earningShares` counts in epoch `freshEpoch` only, `earningOwn` in `ownFreshEpoch` only: they leave out what came in
/// during that epoch. In any other epoch everything earns. `rewardPerShare` is scaled by 2^96 and never falls; `epochEnd`
/// and `generationEnd` keep it for those who earn from after an epoch, or up to a full slash.
struct Pool {
    // the operator
    uint96 own;
    uint96 locked;
    uint16 commission;
    uint16 nextCommission;
    uint32 commissionEpoch;
    // delegators
    uint96 delegated;
    uint104 shares;
    uint32 freshEpoch;
    bool accepts;
    // rewards
    uint144 rewardPerShare;
    uint96 operatorRewards;
    uint16 generation;
    // what earns in an epoch with newcomers
    uint104 earningShares;
    uint96 earningOwn;
    uint32 ownFreshEpoch;
    Thawing ownThawing;
    Thawing thawing;
    mapping(uint256 epoch => uint144) epochEnd;
    mapping(uint256 generation => uint144) generationEnd;
}

/// @notice A delegator's part of a pool. `shares - earning` came in during `freshEpoch` and earns from the next epoch on;
/// `rewards` counts up to `paid` a share.
struct Delegation {
    uint104 shares;
    uint104 earning;
    uint32 freshEpoch;
    uint144 paid;
    uint96 rewards;
    uint16 generation;
}

/// @notice A delegation as it is stored: a word for its shares, a word for its rewards, each written whole.
struct StoredDelegation {
    uint256 shares;
    uint256 rewards;
}

/// @title Arithmetic of operators' pools
/// @notice Shares, rewards and losses of one pool; every step costs the same however many delegators there are.
/// @dev Amounts are wei below 2^92. A share is worth at most one wei and at least 2^-12: it starts at one, only a slash
/// lowers it, and a pool whose share falls below ends its generation. So shares stay below 2^104, no product here reaches
/// 2^256, and there is no price for a first depositor to inflate. Divisions floor, in the vault's favour.
library StakePools {
    using SafeCast for uint256;

    /// @dev Basis points in the whole.
    uint256 internal constant BASIS = 10_000;

    uint256 private constant REWARD_BITS = 96;
    uint256 private constant FLOOR_BITS = 12;

    /// @notice Shares for `amount` wei added to `assets` that `shares` stand for. The virtual share and wei (+ 1) make an
    /// empty pool start at one share a wei.
    function toShares(uint256 amount, uint256 assets, uint256 shares) internal pure returns (uint256) {
        return amount * (shares + 1) / (assets + 1);
    }

    /// @notice Wei that `part` of `shares` is worth, never more than `assets`.
    function toAssets(uint256 part, uint256 assets, uint256 shares) internal pure returns (uint256) {
        return shares == 0 ? 0 : part * assets / shares;
    }

    /// @notice Whether a slash left so little that new shares would come too cheap.
    function exhausted(uint256 assets, uint256 shares) internal pure returns (bool) {
        return assets << FLOOR_BITS < shares;
    }

    /// @notice All stake that a slash can reach: active and thawing, the operator's and its delegators'.
    function total(Pool storage pool) internal view returns (uint256) {
        return uint256(pool.own) + pool.delegated + pool.ownThawing.assets + pool.thawing.assets;
    }

    /// @notice Commission in `epoch`, in basis points.
    function commissionAt(Pool storage pool, uint32 epoch) internal view returns (uint16) {
        uint32 from = pool.commissionEpoch;
        return from != 0 && epoch >= from ? pool.nextCommission : pool.commission;
    }

    /// @notice What earns in `epoch`: delegators' shares, their wei, and the operator's own wei. `all` says that there are
    /// no newcomers among the delegators.
    function earningAt(Pool storage pool, uint32 epoch)
        internal
        view
        returns (uint256 shares, uint256 assets, uint256 own, bool all)
    {
        uint32 freshEpoch;
        (shares, assets, freshEpoch) = (pool.shares, pool.delegated, pool.freshEpoch);
        own = pool.own;
        if (freshEpoch != epoch) return (shares, assets, own, true);
        uint256 earning = pool.earningShares;
        if (pool.ownFreshEpoch == epoch && pool.earningOwn < own) own = pool.earningOwn;
        return (earning, toAssets(earning, assets, shares), own, earning == shares);
    }

    /// @notice Adds to the operator's own stake, which earns from the next epoch on.
    function addOwn(Pool storage pool, uint96 amount, uint32 epoch) internal {
        if (pool.freshEpoch != epoch) (pool.earningShares, pool.freshEpoch) = (pool.shares, epoch);
        if (pool.ownFreshEpoch != epoch) (pool.earningOwn, pool.ownFreshEpoch) = (pool.own, epoch);
        pool.own += amount;
    }

    /// @notice Adds a delegator's stake to a synced delegation; it earns from the next epoch on.
    /// The first newcomer of an epoch writes down what earns in it.
    function add(Pool storage pool, Delegation memory delegation, uint96 amount, uint32 epoch)
        internal
        returns (uint256 minted)
    {
        (uint256 assets, uint256 shares, uint32 freshEpoch) = (pool.delegated, pool.shares, pool.freshEpoch);
        if (freshEpoch != epoch) pool.earningShares = uint104(shares);
        minted = toShares(amount, assets, shares);
        (pool.delegated, pool.shares, pool.freshEpoch) =
        ((assets + amount).toUint96(), (shares + minted).toUint104(), epoch);
        delegation.shares = (minted + delegation.shares).toUint104();
        delegation.freshEpoch = epoch;
    }

    /// @notice Takes shares out of a synced delegation, first those that do not earn yet, and returns their wei.
    function remove(Pool storage pool, Delegation memory delegation, uint104 part, uint32 epoch)
        internal
        returns (uint256 amount)
    {
        (uint256 assets, uint256 shares) = (pool.delegated, pool.shares);
        amount = toAssets(part, assets, shares);
        (pool.delegated, pool.shares) = (uint96(assets - amount), uint104(shares - part));
        uint104 left = delegation.shares - part;
        uint104 earning = delegation.earning;
        delegation.shares = left;
        if (left < earning) {
            delegation.earning = left;
            if (pool.freshEpoch == epoch) pool.earningShares -= earning - left;
        }
    }

    /// @notice A stored delegation, unpacked.
    function load(StoredDelegation storage stored) internal view returns (Delegation memory delegation) {
        (uint256 shares, uint256 rewards) = (stored.shares, stored.rewards);
        delegation.shares = uint104(shares);
        delegation.earning = uint104(shares >> 104);
        delegation.freshEpoch = uint32(shares >> 208);
        delegation.paid = uint144(rewards);
        delegation.rewards = uint96(rewards >> 144);
        delegation.generation = uint16(rewards >> 240);
    }

    /// @notice Stores a delegation's rewards, and its shares if they `moved`.
    function store(StoredDelegation storage stored, Delegation memory delegation, bool moved) internal {
        (uint256 earning, uint256 freshEpoch) = (delegation.earning, delegation.freshEpoch);
        if (moved) stored.shares = delegation.shares | earning << 104 | freshEpoch << 208;
        (uint256 rewards, uint256 generation) = (delegation.rewards, delegation.generation);
        stored.rewards = delegation.paid | rewards << 144 | generation << 240;
    }

    /// @notice Brings a delegation up to date: its rewards up to now in `rewards`, shares that have grown up earn, shares of an
    /// ended generation are gone. Must come before its shares change. Returns whether more than its rewards moved.
    function sync(Pool storage pool, Delegation memory delegation, uint32 epoch) internal view returns (bool moved) {
        (uint144 perShare, uint16 generation) = (pool.rewardPerShare, pool.generation);
        uint256 paid = delegation.paid;
        uint256 earning = delegation.earning;
        uint256 shares = delegation.shares;
        uint256 until = perShare;
        if (delegation.generation != generation) {
            until = pool.generationEnd[delegation.generation];
            (delegation.shares, delegation.earning, delegation.generation) = (0, 0, generation);
            moved = true;
        }
        unchecked {
            uint256 scaled = earning * (until - paid);
            if (shares != earning && delegation.freshEpoch != epoch) {
                uint256 end = pool.epochEnd[delegation.freshEpoch];
                if (end < paid) end = paid;
                if (end < until) scaled += (shares - earning) * (until - end);
                delegation.earning = delegation.shares;
                moved = true;
            }
            delegation.rewards = ((scaled >> REWARD_BITS) + delegation.rewards).toUint96();
        }
        delegation.paid = perShare;
    }

    /// @notice Splits rewards between the operator and its delegators and returns the delegators' part.
    /// @dev A delegator with stake t_d gets f (1 - sigma) t_d / (t_n + t_d): f the reward by stake, sigma the commission,
    /// t_n the stake of all others. What nobody earns yet, and what the division leaves, is the operator's.
    function distribute(Pool storage pool, uint96 amount, uint32 epoch) internal returns (uint256 toDelegators) {
        (uint256 shares, uint256 assets, uint256 own, bool all) = earningAt(pool, epoch);
        (uint256 perShare, uint256 rewards) = (pool.rewardPerShare, pool.operatorRewards);
        if (assets != 0) {
            // at most 96 + 96 + 14 and 96 + 96 bits
            unchecked {
                toDelegators = amount * assets * (BASIS - commissionAt(pool, epoch)) / ((own + assets) * BASIS);
                perShare += (toDelegators << REWARD_BITS) / shares;
            }
            if (!all) pool.epochEnd[epoch] = perShare.toUint144();
        }
        rewards += amount - toDelegators;
        (pool.rewardPerShare, pool.operatorRewards) = (perShare.toUint144(), rewards.toUint96());
    }

    /// @notice Takes up to `amount` wei: the operator's active stake first, then its thawing stake, then the delegators',
    /// active and thawing alike. The locks fall by as much. Returns what was taken.
    /// @dev What an exhausted generation leaves behind (under 2^-12 of its shares) becomes own stake, so that it stays
    /// slashable and goes on covering the locks.
    function lose(Pool storage pool, uint256 amount) internal returns (uint256 taken) {
        (uint256 own, uint256 locked) = (pool.own, pool.locked);
        if (amount <= own) {
            (pool.own, pool.locked) = (uint96(own - amount), uint96(locked - amount));
            return amount;
        }
        uint256 left;
        (taken, left) = _loseThawing(pool.ownThawing, amount - own);
        taken += own;
        if (taken < amount) {
            (uint256 more, uint256 rest) = _loseDelegated(pool, amount - taken);
            taken += more;
            left += rest;
        }
        (pool.own, pool.locked) = (uint96(left), uint96(locked - taken));
    }

    /// @notice Adds `amount` wei to thawing stake for `request`.
    function thaw(Thawing storage thawing, Request storage request, uint96 amount) internal {
        uint256 minted = toShares(amount, thawing.assets, thawing.shares);
        uint32 generation = thawing.generation;
        uint256 before = request.generation == generation ? request.shares : 0;
        (request.shares, request.generation) = ((before + minted).toUint104(), generation);
        thawing.assets += amount;
        thawing.shares = (minted + thawing.shares).toUint104();
    }

    /// @notice Wei that a request is worth now.
    function worth(Thawing storage thawing, Request storage request) internal view returns (uint256) {
        if (request.generation != thawing.generation) return 0;
        return toAssets(request.shares, thawing.assets, thawing.shares);
    }

    /// @notice Ends a request and returns its wei.
    function release(Thawing storage thawing, Request storage request) internal returns (uint256 amount) {
        amount = worth(thawing, request);
        if (request.generation == thawing.generation) {
            thawing.assets -= uint96(amount);
            thawing.shares -= request.shares;
        }
        (request.shares, request.generation) = (0, 0);
    }

    /// @dev Takes up to `amount` from the delegators' active and thawing stake, in proportion. The last generation does not
    /// end: a pool that was ruined 65,535 times takes no more delegations, but its slashes still do not revert.
    function _loseDelegated(Pool storage pool, uint256 amount) private returns (uint256 taken, uint256 left) {
        (uint256 assets, uint256 shares) = (pool.delegated, pool.shares);
        uint256 thawing = pool.thawing.assets;
        uint256 both = assets + thawing;
        taken = amount < both ? amount : both;
        if (taken == 0) return (0, 0);
        uint256 part = taken * thawing / both;
        if (part != 0) (, left) = _loseThawing(pool.thawing, part);
        assets -= taken - part;
        uint16 generation = pool.generation;
        if (exhausted(assets, shares) && generation != type(uint16).max) {
            pool.generationEnd[generation] = pool.rewardPerShare;
            pool.generation = generation + 1;
            left += assets;
            (assets, pool.shares, pool.earningShares) = (0, 0, 0);
        }
        pool.delegated = uint96(assets);
    }

    /// @dev Takes up to `amount` from thawing stake; `left` is what an exhausted generation leaves behind.
    function _loseThawing(Thawing storage thawing, uint256 amount) private returns (uint256 taken, uint256 left) {
        uint256 assets = thawing.assets;
        taken = amount < assets ? amount : assets;
        if (taken == 0) return (0, 0);
        assets -= taken;
        if (exhausted(assets, thawing.shares)) {
            (thawing.shares, thawing.generation) = (0, thawing.generation + 1);
            (left, assets) = (assets, 0);
        }
        thawing.assets = uint96(assets);
    }
}
