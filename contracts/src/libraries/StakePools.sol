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
/// @dev Stake earns from the second epoch after it came in. `earningShares` earn in epoch `freshEpoch`, `earningNext` in the
/// one after it, all shares from then on; the same for the operator's own stake. `rewardPerShare` is scaled by 2^96 and
/// never falls; `epochEnd` and `generationEnd` keep it for those who earn from after an epoch, or up to a full slash.
struct Pool {
    // the operator
    uint96 own;
    uint96 ownLocked;
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
    // what earns in an epoch with newcomers, and in the next one
    uint104 earningShares;
    uint104 earningNext;
    uint96 earningOwn;
    uint96 earningOwnNext;
    uint32 ownFreshEpoch;
    uint96 delegatedLocked;
    Thawing ownThawing;
    Thawing thawing;
    mapping(uint256 epoch => uint144) epochEnd;
    mapping(uint256 generation => uint144) generationEnd;
}

/// @notice A delegator's part of a pool. `earlier` came in during the epoch before `freshEpoch`, `shares - earning - earlier`
/// during `freshEpoch`; each earns from the second epoch after its own. `rewards` counts up to `paid` a share.
struct Delegation {
    uint104 shares;
    uint104 earning;
    uint104 earlier;
    uint32 freshEpoch;
    uint144 paid;
    uint96 rewards;
    uint16 generation;
}

/// @notice A delegation as it is stored: a word for its shares, a word for its rewards, each written whole, and one that is
/// used only by whoever delegated in two epochs in a row.
struct StoredDelegation {
    uint256 shares;
    uint256 rewards;
    uint256 earlier;
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

    /// @dev Set in a stored word of shares when a third word is in use.
    uint256 private constant HAS_EARLIER = 1 << 240;
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
        (shares, assets, own) = (pool.shares, pool.delegated, pool.own);
        uint256 freshEpoch = pool.freshEpoch;
        uint256 earning = shares;
        if (freshEpoch + 1 >= epoch) {
            earning = _inEpoch(freshEpoch, epoch, pool.earningShares, pool.earningNext, shares);
        }
        uint256 earningOwn = _inEpoch(pool.ownFreshEpoch, epoch, pool.earningOwn, pool.earningOwnNext, own);
        if (earningOwn < own) own = earningOwn;
        all = earning == shares;
        if (!all) (shares, assets) = (earning, toAssets(earning, assets, shares));
    }

    /// @notice Adds to the operator's own stake, which earns from the second epoch after this one on.
    function addOwn(Pool storage pool, uint96 amount, uint32 epoch) internal {
        (uint32 last, uint96 own) = (pool.ownFreshEpoch, pool.own);
        if (last != epoch) {
            pool.earningOwn = uint96(_inEpoch(last, epoch, pool.earningOwn, pool.earningOwnNext, own));
            (pool.earningOwnNext, pool.ownFreshEpoch) = (own, epoch);
        }
        pool.own = own + amount;
    }

    /// @notice Adds a delegator's stake to a synced delegation; it earns from the second epoch after this one on.
    /// The first newcomer of an epoch writes down what earns in it, and in the next one.
    function add(Pool storage pool, Delegation memory delegation, uint96 amount, uint32 epoch)
        internal
        returns (uint256 minted)
    {
        (uint256 assets, uint256 shares, uint32 last) = (pool.delegated, pool.shares, pool.freshEpoch);
        if (last != epoch) {
            uint256 earning = _inEpoch(last, epoch, pool.earningShares, pool.earningNext, shares);
            (pool.earningShares, pool.earningNext) = (uint104(earning), uint104(shares));
        }
        minted = toShares(amount, assets, shares);
        (pool.delegated, pool.shares, pool.freshEpoch) =
        ((assets + amount).toUint96(), (shares + minted).toUint104(), epoch);
        if (delegation.freshEpoch != epoch) {
            // what does not earn yet came in one epoch ago
            delegation.earlier = delegation.shares - delegation.earning;
            delegation.freshEpoch = epoch;
        }
        delegation.shares = (minted + delegation.shares).toUint104();
    }

    /// @notice Takes shares out of a synced delegation, first those that do not earn yet, and returns their wei.
    function remove(Pool storage pool, Delegation memory delegation, uint104 part, uint32 epoch)
        internal
        returns (uint256 amount)
    {
        (uint256 assets, uint256 shares) = (pool.delegated, pool.shares);
        amount = toAssets(part, assets, shares);
        (pool.delegated, pool.shares) = (uint96(assets - amount), uint104(shares - part));
        uint104 earning = delegation.earning;
        uint104 next = delegation.freshEpoch == epoch ? earning + delegation.earlier : delegation.shares;
        uint104 left = delegation.shares - part;
        delegation.shares = left;
        (uint104 loses, uint104 losesNext) = (_over(earning, left), _over(next, left));
        if (loses | losesNext == 0) return amount;
        delegation.earning = earning - loses;
        if (delegation.freshEpoch == epoch) delegation.earlier = next - losesNext - (earning - loses);
        uint32 last = pool.freshEpoch;
        if (last == epoch) {
            pool.earningShares -= loses;
            pool.earningNext -= losesNext;
        } else if (uint256(last) + 1 == epoch) {
            pool.earningNext -= loses;
        }
    }

    /// @notice A stored delegation, unpacked.
    function load(StoredDelegation storage stored) internal view returns (Delegation memory delegation) {
        (uint256 shares, uint256 rewards) = (stored.shares, stored.rewards);
        delegation.shares = uint104(shares);
        delegation.earning = uint104(shares >> 104);
        delegation.freshEpoch = uint32(shares >> 208);
        if (shares & HAS_EARLIER != 0) delegation.earlier = uint104(stored.earlier);
        delegation.paid = uint144(rewards);
        delegation.rewards = uint96(rewards >> 144);
        delegation.generation = uint16(rewards >> 240);
    }

    /// @notice Stores a delegation's rewards, and its shares if they `moved`.
    function store(StoredDelegation storage stored, Delegation memory delegation, bool moved) internal {
        if (moved) {
            (uint256 earning, uint256 freshEpoch) = (delegation.earning, delegation.freshEpoch);
            uint256 word = delegation.shares | earning << 104 | freshEpoch << 208;
            if (delegation.earlier != 0) (word, stored.earlier) = (word | HAS_EARLIER, delegation.earlier);
            stored.shares = word;
        }
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
            uint256 freshEpoch = delegation.freshEpoch;
            uint256 earlier = delegation.earlier;
            if (earlier != 0 && epoch > freshEpoch) {
                scaled += earlier * _since(pool, freshEpoch - 1, paid, until);
                if (delegation.shares != 0) delegation.earning += uint104(earlier);
                delegation.earlier = 0;
                moved = true;
            }
            uint256 fresh = shares - earning - earlier;
            if (fresh != 0 && epoch > freshEpoch + 1) {
                scaled += fresh * _since(pool, freshEpoch, paid, until);
                delegation.earning = delegation.shares;
                moved = true;
            }
            delegation.rewards = ((scaled >> REWARD_BITS) + delegation.rewards).toUint96();
        }
        if (delegation.shares == 0) delegation.earlier = 0;
        delegation.paid = perShare;
    }

    /// @dev Rewards a share, scaled, of shares that came in during epoch `entered`: from the end of the epoch after it on.
    function _since(Pool storage pool, uint256 entered, uint256 paid, uint256 until) private view returns (uint256) {
        uint256 end = pool.epochEnd[entered + 1];
        // slither-disable-next-line incorrect-equality: zero is for an epoch without a payment
        if (end == 0) end = pool.epochEnd[entered];
        if (end < paid) end = paid;
        return end < until ? until - end : 0;
    }

    /// @dev What earns in `epoch`, when `now_` earns in epoch `last`, `next` in the one after it, and `all` in later ones.
    function _inEpoch(uint256 last, uint256 epoch, uint256 now_, uint256 next, uint256 all)
        private
        pure
        returns (uint256)
    {
        return epoch == last ? now_ : epoch == last + 1 ? next : all;
    }

    function _over(uint104 value, uint104 most) private pure returns (uint104) {
        return value > most ? value - most : 0;
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

    /// @notice Takes `amount` wei of locked stake of the operator's: active stake first, then what thaws. Returns what was
    /// taken, which is all of it: own stake covers its locks.
    /// @dev What an exhausted generation of thawing stake leaves behind (under 2^-12 of its shares) becomes active again.
    function loseOwn(Pool storage pool, uint256 amount) internal returns (uint256 taken) {
        (uint256 own, uint256 locked) = (pool.own, pool.ownLocked);
        uint256 left;
        if (amount <= own) (taken, left) = (amount, own - amount);
        else (taken, left) = _loseThawing(pool.ownThawing, amount - own);
        if (amount > own) taken += own;
        (pool.own, pool.ownLocked) = (uint96(left), uint96(locked - amount));
    }

    /// @notice Takes `amount` wei of locked stake of the delegators', active and thawing in proportion. Returns what was
    /// taken: more, when a generation is exhausted and what it leaves behind (under 2^-12 of its shares) goes with it; less,
    /// by as much, when that was taken before. The last generation does not end: a pool that was ruined 65,535 times takes no
    /// more delegations, but its slashes still do not revert.
    function loseDelegated(Pool storage pool, uint256 amount) internal returns (uint256 taken) {
        pool.delegatedLocked -= uint96(amount);
        (uint256 assets, uint256 shares) = (pool.delegated, pool.shares);
        uint256 thawing = pool.thawing.assets;
        uint256 both = assets + thawing;
        taken = amount < both ? amount : both;
        if (taken == 0) return 0;
        uint256 part = taken * thawing / both;
        // slither-disable-next-line uninitialized-local: zero
        uint256 left;
        if (part != 0) (, left) = _loseThawing(pool.thawing, part);
        assets -= taken - part;
        uint16 generation = pool.generation;
        if (exhausted(assets, shares) && generation != type(uint16).max) {
            pool.generationEnd[generation] = pool.rewardPerShare;
            pool.generation = generation + 1;
            pool.shares = 0;
            (pool.earningShares, pool.earningNext) = (0, 0);
            left += assets;
            assets = 0;
        }
        pool.delegated = uint96(assets);
        taken += left;
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
