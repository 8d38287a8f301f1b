// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {StakeVaultFixture} from "./StakeVaultFixture.sol";
import {StakeVault} from "../src/StakeVault.sol";

/// @notice Acts on two pools in any order that the fuzzer likes, keeps its own books, and checks after each act that nobody
/// else was touched.
contract StakeVaultHandler is StakeVaultFixture {
    /// @notice What one account put into one pool and got out of it, as delegator; or an operator, as operator.
    struct Book {
        uint256 paidIn;
        uint256 paidOut;
        uint256 claimed;
        uint32[] requests; // in the order of their epochs, each once; all before `done` are paid
        uint256 done;
    }

    uint256 private constant SUPPLY = 1e24;

    address[2] public operators = [address(0x0A), address(0x0B)];
    address[3] public accounts = [address(0xA1), address(0xA2), address(0x0A)]; // an operator delegates, too
    bytes32[2] private _tasks = [TASK, OTHER_TASK];
    address[2] private _creators = [CREATOR, address(0xC1)]; // of the tasks

    uint256 public steps;
    uint256 private _donated;
    mapping(address operator => uint256) private _ownLost;
    mapping(address operator => uint256) private _delegatedLost;
    mapping(address operator => uint256) private _ahead; // taken with an exhausted generation, still in the locks
    mapping(address operator => mapping(address creator => uint256)) private _listedFrom;
    mapping(bytes32 task => mapping(address operator => bool)) private _listed; // when it locked
    mapping(address operator => mapping(address account => mapping(uint256 epoch => uint256))) private _entered;
    mapping(address operator => uint256) private _distributed;
    mapping(address operator => Book) private _own;
    mapping(address operator => mapping(address account => Book)) private _books;

    function setUp() public override {
        super.setUp();
        for (uint256 i; i < 2; ++i) {
            _fund(operators[i], SUPPLY);
            _accept(operators[i]);
            _fund(accounts[i], SUPPLY);
        }
        addCreator(0, 0); // so that not all locks are of own stake alone
        _skip(DELAY);
    }

    modifier step() {
        ++steps;
        _;
    }

    function stake(uint256 pick, uint256 amount) external step {
        address operator = operators[pick % 2];
        amount = _amount(amount);
        if (amount > token.balanceOf(operator)) return;
        uint256[] memory before = _others(operator, address(0));
        vm.prank(operator);
        vault.stake(amount);
        _own[operator].paidIn += amount;
        _checkOthers(before, operator, address(0));
    }

    function unstake(uint256 pick, uint256 amount) external step {
        address operator = operators[pick % 2];
        uint256 own = vault.pool(operator).own;
        if (own == 0) return;
        uint256[] memory before = _others(operator, address(0));
        vm.prank(operator);
        vault.unstake(bound(amount, 1, own));
        _asked(_own[operator]);
        _checkOthers(before, operator, address(0));
    }

    function withdrawStake(uint256 pick) external step {
        address operator = operators[pick % 2];
        Book storage book = _own[operator];
        if (book.done == book.requests.length) return;
        uint32 epoch = book.requests[book.done];
        uint256 thawing = vault.ownThawingOf(operator, epoch);
        uint256 before = token.balanceOf(operator);
        vm.prank(operator);
        try vault.withdrawStake(epoch) {
            vm.assertLt(epoch + UNBONDING, vault.currentEpoch(), "thawed");
            vm.assertEq(token.balanceOf(operator) - before, thawing, "what the view said");
            StakeVault.PoolInfo memory info = vault.pool(operator);
            vm.assertLe(info.ownLocked, info.own + info.ownThawing, "the operator answers for its part");
            book.paidOut += thawing;
            book.done += 1;
        } catch {}
    }

    function delegate(uint256 pick, uint256 who, uint256 amount) external step {
        (address operator, address account) = (operators[pick % 2], accounts[who % 3]);
        amount = _amount(amount);
        if (amount > token.balanceOf(account)) return;
        uint256 pending = vault.pendingRewards(operator, account);
        bool empty = vault.pool(operator).shares == 0;
        uint256 worth = vault.delegation(operator, account).assets;
        uint256[] memory before = _others(operator, account);
        uint256[2] memory price = _price(operator);
        vm.prank(account);
        uint256 shares = vault.delegate(operator, amount);
        _books[operator][account].paidIn += amount;
        _entered[operator][account][vault.currentEpoch()] += shares;
        vm.assertLe(amount, shares, "a share is worth a wei at most");
        if (empty) vm.assertEq(shares, amount, "an empty pool starts anew");
        vm.assertEq(vault.pendingRewards(operator, account), pending, "own rewards stay");
        uint256 now_ = vault.delegation(operator, account).assets;
        vm.assertLe(now_, worth + amount + 1, "no gain by delegating");
        vm.assertLe(worth + amount, now_ + 2, "no loss by delegating");
        _checkPrice(operator, price);
        _checkOthers(before, operator, account);
    }

    function undelegate(uint256 pick, uint256 who, uint256 part) external step {
        (address operator, address account) = (operators[pick % 2], accounts[who % 3]);
        uint256 held = vault.delegation(operator, account).shares;
        if (held == 0) return;
        part = bound(part, 1, held);
        if (held - part < MINIMUM) part = held;
        uint256[] memory before = _others(operator, account);
        uint256[2] memory price = _price(operator);
        uint256 pending = vault.pendingRewards(operator, account);
        vm.prank(account);
        vault.undelegate(operator, part);
        _asked(_books[operator][account]);
        _forget(operator, account, part);
        vm.assertEq(vault.pendingRewards(operator, account), pending, "own rewards stay");
        _checkPrice(operator, price);
        _checkOthers(before, operator, account);
    }

    function withdraw(uint256 pick, uint256 who) external step {
        (address operator, address account) = (operators[pick % 2], accounts[who % 3]);
        Book storage book = _books[operator][account];
        if (book.done == book.requests.length) return;
        uint32 epoch = book.requests[book.done];
        uint256 thawing = vault.thawingOf(operator, account, epoch);
        uint256 before = token.balanceOf(account);
        vm.prank(account);
        try vault.withdraw(operator, epoch) {
            vm.assertLt(epoch + UNBONDING, vault.currentEpoch(), "thawed");
            vm.assertEq(token.balanceOf(account) - before, thawing, "what the view said");
            StakeVault.PoolInfo memory info = vault.pool(operator);
            vm.assertLe(info.delegatedLocked, info.delegated + info.thawing, "nothing thawing escapes");
            book.paidOut += thawing;
            book.done += 1;
        } catch {}
    }

    function claim(uint256 pick, uint256 who) external step {
        (address operator, address account) = (operators[pick % 2], accounts[who % 3]);
        uint256 pending = vault.pendingRewards(operator, account);
        uint256[] memory before = _others(operator, account);
        uint256 balance = token.balanceOf(account);
        vm.prank(account);
        vault.claim(operator);
        vm.assertEq(token.balanceOf(account) - balance, pending, "paid what was pending");
        vm.assertEq(vault.pendingRewards(operator, account), 0);
        _books[operator][account].claimed += pending;
        _checkOthers(before, operator, account);
    }

    function claimOperatorRewards(uint256 pick) external step {
        address operator = operators[pick % 2];
        uint256 owed = vault.pool(operator).operatorRewards;
        vm.prank(operator);
        vm.assertEq(vault.claimOperatorRewards(), owed);
        _own[operator].claimed += owed;
    }

    function distribute(uint256 pick, uint256 amount) external step {
        address operator = operators[pick % 2];
        amount = _amount(amount);
        uint256[2][3] memory before;
        for (uint256 i; i < 3; ++i) {
            before[i] =
                [vault.pendingRewards(operator, accounts[i]), vault.delegation(operator, accounts[i]).earningShares];
        }
        _distribute(operator, amount);
        _distributed[operator] += amount;
        for (uint256 i; i < 3; ++i) {
            uint256 pending = vault.pendingRewards(operator, accounts[i]);
            vm.assertLe(before[i][0], pending, "rewards only grow");
            if (before[i][1] == 0) vm.assertEq(pending, before[i][0], "newcomers earn nothing yet");
        }
    }

    function setCommission(uint256 pick, uint16 rate) external step {
        address operator = operators[pick % 2];
        (uint256 current,,) = vault.commission(operator);
        uint256 low = current < 1_000 ? 0 : current - 1_000;
        uint256 high = current > 4_000 ? 5_000 : current + 1_000;
        vm.prank(operator);
        vault.setCommission(uint16(bound(rate, low, high)));
        (uint256 after_,,) = vault.commission(operator);
        vm.assertEq(after_, current, "not at once");
    }

    function addCreator(uint256 pick, uint256 which) public step {
        address operator = operators[pick % 2];
        address creator = _creators[which % 2];
        vm.prank(operator);
        try vault.addCreator(creator) {
            vm.assertEq(_listedFrom[operator][creator], 0);
            _listedFrom[operator][creator] = vault.currentEpoch() + DELAY;
        } catch {
            vm.assertLt(0, _listedFrom[operator][creator], "listed already");
        }
    }

    function removeCreator(uint256 pick, uint256 which) external step {
        address operator = operators[pick % 2];
        vm.prank(operator);
        vault.removeCreator(_creators[which % 2]);
        delete _listedFrom[operator][_creators[which % 2]];
    }

    function lock(uint256 pick, uint256 task, uint256 amount) external step {
        (address operator, uint256 free) = (operators[pick % 2], _most(operators[pick % 2], task % 2));
        if (vault.lockedStake(_tasks[task % 2], operator) != 0) return;
        _lockFor(task % 2, operator, amount % 3 == 0 ? free : bound(amount, 0, free));
    }

    /// @dev What the text of the rule has it: own stake, and delegated stake if the creator was listed in time.
    function _most(address operator, uint256 task) private view returns (uint256 most) {
        StakeVault.PoolInfo memory info = vault.pool(operator);
        uint256 own = info.own > info.ownLocked ? info.own - info.ownLocked : 0;
        uint256 others = info.delegated > info.delegatedLocked ? info.delegated - info.delegatedLocked : 0;
        most = _lists(operator, task) ? own + others : own;
        if (most > 5 * own) most = 5 * own;
        vm.assertEq(vault.lockable(operator, _creators[task]), most, "what can be locked");
    }

    function _lists(address operator, uint256 task) private view returns (bool) {
        uint256 from = _listedFrom[operator][_creators[task]];
        return from != 0 && from <= vault.currentEpoch();
    }

    function _lockFor(uint256 task, address operator, uint256 amount) private {
        StakeVault.PoolInfo memory before = vault.pool(operator);
        bool shared = vault.lock(_tasks[task], operator, _creators[task], amount);
        _listed[_tasks[task]][operator] = _lists(operator, task);
        StakeVault.Lock memory made = vault.lockOf(_tasks[task], operator);
        vm.assertEq(uint256(made.own) + made.delegated, amount);
        vm.assertLe(amount, 5 * uint256(made.own), "a fifth is the operator's own");
        vm.assertTrue(shared == (made.delegated != 0), "shared");
        vm.assertTrue(!shared || _lists(operator, task), "delegators back listed creators only");
        StakeVault.PoolInfo memory info = vault.pool(operator);
        vm.assertEq(info.ownLocked, before.ownLocked + made.own);
        vm.assertEq(info.delegatedLocked, before.delegatedLocked + made.delegated);
    }

    function unlock(uint256 pick, uint256 task) external step {
        vault.unlock(_tasks[task % 2], operators[pick % 2]);
    }

    /// @notice Never reverts, takes from those who come first, and from delegators, active and thawing, in proportion.
    function slash(uint256 pick, uint256 task, uint256 amount) external step {
        address operator = operators[pick % 2];
        uint256 left = vault.lockedStake(_tasks[task % 2], operator);
        _slash(operator, _tasks[task % 2], amount % 4 == 0 ? amount : bound(amount, 0, left + 1));
    }

    /// @notice Takes all that can be locked, or nearly all.
    function ruin(uint256 pick, uint256 rest) external step {
        address operator = operators[pick % 2];
        vault.unlock(TASK, operator);
        _lockFor(0, operator, _most(operator, 0));
        uint256 left = vault.lockedStake(TASK, operator);
        rest = rest % 3 == 0 ? 0 : rest % 1e12;
        _slash(operator, TASK, left > rest ? left - rest : 0);
    }

    function _slash(address operator, bytes32 task, uint256 amount) private {
        StakeVault.Lock memory was_ = vault.lockOf(task, operator);
        StakeVault.PoolInfo memory before = vault.pool(operator);
        (uint256 own, uint256 delegated, uint256 left) = vault.slash(task, operator, amount);
        vm.assertEq(own, amount < was_.own ? amount : was_.own, "the operator's own first");
        vm.assertEq(delegated, amount - own < was_.delegated ? amount - own : was_.delegated, "then its delegators'");
        vm.assertEq(left, uint256(was_.own) + was_.delegated - own - delegated);
        vm.assertEq(left, vault.lockedStake(task, operator));
        _paySlashed(operator, own, delegated);

        StakeVault.PoolInfo memory info = vault.pool(operator);
        vm.assertEq(info.own + info.ownThawing + own, before.own + before.ownThawing, "own stake falls by its part");
        if (!_listed[task][operator]) {
            vm.assertEq(info.delegated + info.thawing, before.delegated + before.thawing, "an unlisted creator's task");
        }
        if (info.generation != before.generation) {
            for (uint256 i; i < 3; ++i) {
                _forget(operator, accounts[i], type(uint256).max);
            }
        }
        if (info.thawing != 0 && info.delegated != 0) {
            uint256 was = before.thawing * info.delegated;
            uint256 is_ = info.thawing * before.delegated;
            uint256 slack = before.thawing + before.delegated;
            vm.assertLe(was, is_ + slack, "thawing stake loses no less");
            vm.assertLe(is_, was + slack, "and no more");
        }
    }

    /// @dev As the registry does: what is the operator's own has a receiver each, the rest goes to the sink.
    function _paySlashed(address operator, uint256 own, uint256 delegated) private {
        vault.payOut(address(this), own);
        uint256 sunk = token.balanceOf(SINK);
        vault.payOutRest(SINK);
        sunk = token.balanceOf(SINK) - sunk;
        _ownLost[operator] += own;
        _delegatedLost[operator] += sunk;
        _ahead[operator] = _ahead[operator] + sunk - delegated; // what came too late was taken before
    }

    /// @dev Shares that do not earn yet leave first, the latest before those of the epoch before.
    function _forget(address operator, address account, uint256 part) private {
        uint256 epoch = vault.currentEpoch();
        for (uint256 i; i < 2; ++i) {
            uint256 entered = _entered[operator][account][epoch - i];
            uint256 leaves = part < entered ? part : entered;
            _entered[operator][account][epoch - i] -= leaves;
            part -= leaves;
        }
    }

    function donate(uint256 amount) external step {
        amount = _amount(amount);
        token.transfer(address(vault), amount);
        _donated += amount;
    }

    function pass(uint256 epochs) external step {
        uint256[4] memory waits = [1 hours, EPOCH, 3 * EPOCH, (UNBONDING + 1) * EPOCH];
        vm.warp(block.timestamp + waits[epochs % 4]);
    }

    /// @notice Stake in and out adds up to the wei; every token is accounted for, but for dust in the vault's favour.
    function checkTokens() external view {
        uint256 owed;
        for (uint256 i; i < 2; ++i) {
            address operator = operators[i];
            Book storage own = _own[operator];
            StakeVault.PoolInfo memory info = vault.pool(operator);
            vm.assertEq(info.own + info.ownThawing + own.paidOut + _ownLost[operator], own.paidIn, "own stake");
            uint256 staked;
            uint256 out;
            for (uint256 j; j < 3; ++j) {
                staked += _books[operator][accounts[j]].paidIn;
                out += _books[operator][accounts[j]].paidOut;
            }
            (uint256 rewards, uint256 claimed) = _rewards(operator);
            vm.assertEq(info.delegated + info.thawing + out + _delegatedLost[operator], staked, "delegated stake");
            vm.assertLe(rewards, _distributed[operator], "no reward from nowhere");
            owed += _stakeOf(operator) + _distributed[operator] - claimed;
        }
        vm.assertEq(token.balanceOf(address(vault)), owed + _donated, "the vault holds what it owes, and dust");
    }

    /// @notice Rewards that rounding keeps from everybody are fewer wei than there were acts.
    function checkDust() external view {
        uint256 dust;
        for (uint256 i; i < 2; ++i) {
            (uint256 rewards,) = _rewards(operators[i]);
            dust += _distributed[operators[i]] - rewards;
        }
        vm.assertLe(dust, 3 * steps + 6, "dust is bounded by the number of acts");
    }

    /// @notice Locks add up and are covered; so do shares.
    function checkPools() external view {
        for (uint256 i; i < 2; ++i) {
            StakeVault.PoolInfo memory info = vault.pool(operators[i]);
            StakeVault.Lock memory one = vault.lockOf(TASK, operators[i]);
            StakeVault.Lock memory other = vault.lockOf(OTHER_TASK, operators[i]);
            vm.assertEq(info.ownLocked, uint256(one.own) + other.own, "locks add up");
            vm.assertEq(info.delegatedLocked, uint256(one.delegated) + other.delegated, "of delegators, too");
            vm.assertLe(info.ownLocked, info.own + info.ownThawing, "no own stake answers twice");
            uint256 covered = info.delegated + info.thawing + _ahead[operators[i]];
            vm.assertLe(info.delegatedLocked, covered, "nor delegated stake");
            vm.assertLe(info.earningShares, info.shares, "not more earn than there are");
            uint256 shares;
            uint256 earning;
            for (uint256 j; j < 3; ++j) {
                StakeVault.DelegationInfo memory delegation = vault.delegation(operators[i], accounts[j]);
                shares += delegation.shares;
                earning += delegation.earningShares;
                uint256 fresh = _entered[operators[i]][accounts[j]][vault.currentEpoch()]
                    + _entered[operators[i]][accounts[j]][vault.currentEpoch() - 1];
                vm.assertEq(delegation.earningShares + fresh, delegation.shares, "from the second epoch on");
                vm.assertTrue(delegation.shares == 0 || delegation.shares >= MINIMUM, "the least or none");
            }
            vm.assertEq(shares, info.shares, "shares add up");
            vm.assertEq(earning, info.earningShares, "earning shares add up");
        }
    }

    /// @notice Whatever was slashed, a share is worth between 2^-12 and one wei: a pool that lost all takes stake again.
    function checkPrices() external view {
        for (uint256 i; i < 2; ++i) {
            StakeVault.PoolInfo memory info = vault.pool(operators[i]);
            vm.assertLe(info.delegated, info.shares, "a share is worth a wei at most");
            vm.assertLe(info.shares, info.delegated << 12, "and 2^-12 at least");
        }
    }

    /// @notice Nobody has, or has had, more stake out of a pool than it put in.
    function checkAccounts() external view {
        for (uint256 i; i < 2; ++i) {
            address operator = operators[i];
            uint256 thawing;
            for (uint256 j; j < 3; ++j) {
                Book storage book = _books[operator][accounts[j]];
                uint256 waiting;
                for (uint256 k = book.done; k < book.requests.length; ++k) {
                    waiting += vault.thawingOf(operator, accounts[j], book.requests[k]);
                }
                thawing += waiting;
                uint256 has = book.paidOut + waiting + vault.delegation(operator, accounts[j]).assets;
                vm.assertLe(has, book.paidIn + steps, "no delegator gains stake");
            }
            StakeVault.PoolInfo memory info = vault.pool(operator);
            vm.assertLe(thawing, info.thawing, "requests are covered");
            vm.assertLe(info.thawing, thawing + steps, "to the dust");
            uint256 own = _own[operator].paidOut + info.own + info.ownThawing;
            vm.assertLe(own, _own[operator].paidIn, "no operator gains stake");
        }
    }

    /// @notice Delegators lose by slashes of listed creators' tasks alone: together they have what they put in, less those.
    function checkDelegators() external view {
        for (uint256 i; i < 2; ++i) {
            address operator = operators[i];
            uint256 paidIn;
            uint256 has;
            for (uint256 j; j < 3; ++j) {
                Book storage book = _books[operator][accounts[j]];
                paidIn += book.paidIn;
                has += book.paidOut + vault.delegation(operator, accounts[j]).assets;
                for (uint256 k = book.done; k < book.requests.length; ++k) {
                    has += vault.thawingOf(operator, accounts[j], book.requests[k]);
                }
            }
            vm.assertLe(paidIn, has + _delegatedLost[operator] + steps, "lost otherwise");
        }
    }

    /// @notice A lock that delegators back is one of a listed creator.
    function checkLocks() external view {
        for (uint256 i; i < 4; ++i) {
            StakeVault.Lock memory lock_ = vault.lockOf(_tasks[i % 2], operators[i / 2]);
            bool listed = _listed[_tasks[i % 2]][operators[i / 2]];
            vm.assertTrue(listed || lock_.delegated == 0, "delegators back an unlisted creator");
        }
    }

    function _amount(uint256 seed) private pure returns (uint256) {
        return seed % 2 == 0 ? bound(seed >> 8, MINIMUM, 2 * MINIMUM) : bound(seed >> 8, MINIMUM, SUPPLY / 50);
    }

    function _stakeOf(address operator) private view returns (uint256) {
        StakeVault.PoolInfo memory info = vault.pool(operator);
        return info.own + info.delegated + info.ownThawing + info.thawing;
    }

    /// @dev A pool's rewards that have an owner, and those of them that were claimed.
    function _rewards(address operator) private view returns (uint256 rewards, uint256 claimed) {
        claimed = _own[operator].claimed;
        rewards = vault.pool(operator).operatorRewards;
        for (uint256 j; j < 3; ++j) {
            rewards += vault.pendingRewards(operator, accounts[j]);
            claimed += _books[operator][accounts[j]].claimed;
        }
        rewards += claimed;
    }

    function _asked(Book storage book) private {
        uint256 length = book.requests.length;
        uint32 epoch = vault.currentEpoch();
        if (length == book.done || book.requests[length - 1] != epoch) book.requests.push(epoch);
    }

    function _price(address operator) private view returns (uint256[2] memory) {
        StakeVault.PoolInfo memory info = vault.pool(operator);
        return [info.delegated, info.shares];
    }

    /// @dev Only a slash lowers what a share is worth. A newcomer's rounding may shift it by what the virtual share is worth.
    function _checkPrice(address operator, uint256[2] memory before) private view {
        uint256[2] memory price = _price(operator);
        vm.assertLe(before[0] * price[1], price[0] * before[1] + before[1] + price[1], "price falls by slash only");
    }

    /// @dev Shares, worth and rewards of everybody but `account` in `operator`'s pool.
    function _others(address operator, address account) private view returns (uint256[] memory values) {
        values = new uint256[](12);
        for (uint256 i; i < 6; ++i) {
            (address pool, address other) = (operators[i / 3], accounts[i % 3]);
            if (pool == operator && other == account) continue;
            values[2 * i] = vault.delegation(pool, other).shares;
            values[2 * i + 1] = vault.pendingRewards(pool, other);
        }
    }

    /// @dev Nobody else's act moves an account's shares or lowers its rewards.
    function _checkOthers(uint256[] memory before, address operator, address account) private view {
        uint256[] memory values = _others(operator, account);
        for (uint256 i; i < 12; ++i) {
            vm.assertEq(values[i], before[i], "somebody else was touched");
        }
    }
}

/// forge-config: default.invariant.runs = 5
/// forge-config: default.invariant.depth = 200
/// forge-config: deep.invariant.runs = 256
/// forge-config: deep.invariant.depth = 500
contract StakeVaultInvariantsTest is Base {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    StakeVaultHandler private handler;

    function setUp() public {
        handler = new StakeVaultHandler();
        handler.setUp();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[24] memory all = [
            StakeVaultHandler.stake.selector,
            StakeVaultHandler.unstake.selector,
            StakeVaultHandler.withdrawStake.selector,
            StakeVaultHandler.delegate.selector,
            StakeVaultHandler.delegate.selector, // more likely
            StakeVaultHandler.undelegate.selector,
            StakeVaultHandler.withdraw.selector,
            StakeVaultHandler.withdraw.selector,
            StakeVaultHandler.claim.selector,
            StakeVaultHandler.claimOperatorRewards.selector,
            StakeVaultHandler.distribute.selector,
            StakeVaultHandler.setCommission.selector,
            StakeVaultHandler.lock.selector,
            StakeVaultHandler.lock.selector,
            StakeVaultHandler.unlock.selector,
            StakeVaultHandler.slash.selector,
            StakeVaultHandler.slash.selector,
            StakeVaultHandler.ruin.selector,
            StakeVaultHandler.donate.selector,
            StakeVaultHandler.addCreator.selector,
            StakeVaultHandler.addCreator.selector,
            StakeVaultHandler.removeCreator.selector,
            StakeVaultHandler.pass.selector,
            StakeVaultHandler.pass.selector
        ];
        bytes4[] memory selectors = new bytes4[](all.length);
        for (uint256 i; i < all.length; ++i) {
            selectors[i] = all[i];
        }
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), selectors);
    }

    function invariant_VaultHoldsWhatItOwes() public view {
        handler.checkTokens();
    }

    function invariant_DustIsBounded() public view {
        handler.checkDust();
    }

    function invariant_NoStakeAnswersTwice() public view {
        handler.checkPools();
    }

    function invariant_RuinedPoolsStartAnew() public view {
        handler.checkPrices();
    }

    function invariant_NobodyGainsStake() public view {
        handler.checkAccounts();
    }

    function invariant_DelegatorsLoseByListedCreatorsOnly() public view {
        handler.checkDelegators();
    }

    function invariant_DelegatorsBackListedCreatorsOnly() public view {
        handler.checkLocks();
    }
}
