// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {Fixture} from "./Fixture.sol";
import {Merkle} from "./Merkle.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice Acts on two tasks with the same members, three of whom have delegators, in any order that the fuzzer likes, and
/// keeps its own books. The delegators of the second of the three back no task: it has listed no creator.
contract Handler is Fixture {
    /// @notice What the handler itself knows of a task.
    struct Book {
        uint256 paidIn; // pool and stakes
        uint256 paidOut; // claims, releases, refund, rewards and what went to the sink, measured on balances
        uint256 slashed;
        uint256 released;
        uint64 settled;
        uint64 abandoned;
        bytes32 seed;
        bytes32 lastReport;
        uint256[] earned;
    }

    /// @notice What a slash may move.
    struct Before {
        uint256[] wealth; // of everybody but the sink
        uint256 held; // by the vault and the distributor
        uint256 staked; // in the pools
        uint256 locks;
        uint256 ownLocks;
        uint256 pool; // what the task's creator would get
    }

    uint64 private constant DELAY = 2 * DEADLINE;
    uint64 private constant GRACE = 300;
    uint256 private constant POOLED = 3; // members with delegators when they joined
    uint256 private constant UNLISTED = 1; // of them

    bytes32[2] public ids;
    string public forgery; // the last thing that went through, or did not, against the rules
    uint256 private _slashed; // stake that slashes took, of both tasks
    uint256 private _rewarded; // what of it their bringers got
    uint256 private _endShares; // that no last epoch committed
    uint256 public burnt;
    uint256 public enriched;
    mapping(bytes32 task => Book) private _books;
    mapping(bytes32 root => uint256[]) private _earnedUnder;
    mapping(bytes32 task => bytes) private _lastReports;
    mapping(bytes32 task => mapping(uint256 member => mapping(uint256 epoch => bool))) private _punished;

    function _activationDelay() internal pure override returns (uint64) {
        return DELAY;
    }

    function _grace() internal pure override returns (uint64) {
        return GRACE;
    }

    /// @dev So much that a few weeks of it reach the cap.
    function _daily() internal pure override returns (uint128) {
        return 1e8 ether;
    }

    function setUp() public override {
        super.setUp();
        for (uint256 i; i < POOLED; ++i) {
            // of the last one hardly more is its own than what the two tasks lock
            if (i == POOLED - 1) {
                vm.prank(members[i]);
                vault.unstake(WALLET - STAKE / 2);
            }
            _delegate(members[i], address(uint160(0xA1 + i)), 2 * STAKE);
            if (i == UNLISTED) continue;
            vm.prank(members[i]);
            vault.addCreator(CREATOR);
        }
        vm.warp(block.timestamp + (UNBONDING + 1) * VAULT_EPOCH);
        for (uint256 i; i < ids.length; ++i) {
            Terms memory terms = _terms();
            terms.numEpochs = i == 0 ? 8 : 30;
            terms.numVoters = i == 0 ? 4 : 7;
            terms.pool = i == 0 ? POOL : 7; // the second pool is next to nothing: it must not be fed by the first
            terms.endShareBps = i == 0 ? 2500 : 0;
            terms.maxSkips = 3;
            ids[i] = _run(SEED, terms);
            Book storage book = _books[ids[i]];
            book.paidIn = terms.pool + MEMBERS * STAKE;
            book.seed = keccak256("genesis");
            book.earned = new uint256[](MEMBERS);
        }
        _earnedUnder[0] = new uint256[](MEMBERS);
    }

    function settle(uint256 pick, uint256 rewards, uint256 winner, uint32 victim, uint128 penalty) external {
        (bytes32 task, Book storage book, bool running) = _open(pick);
        if (!running || distributor.queueOf(task).frozen) return;
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        book.earned[winner % MEMBERS] += bound(rewards, 0, _budget(task));
        Report memory report = _report(task);
        report.rewardsTotal = 0;
        for (uint256 i; i < MEMBERS; ++i) {
            report.rewardsTotal += uint128(book.earned[i]);
        }
        report.rewardsRoot = _tree(task, book.earned)[0];
        _earnedUnder[report.rewardsRoot] = book.earned;
        if (penalty % 2 == 0) report.slashes = _slashes(victim % MEMBERS, penalty % (2 * STAKE));

        if (penalty % 4 == 0) report.relayer = members[victim % MEMBERS]; // the slashed one itself
        Before memory before = _before(task);
        before.pool = info.poolLeft - (report.rewardsTotal - info.committed);
        uint256 reserve = distributor.accountOf(task).reserve;
        _lastReports[task] = abi.encode(report);
        _settle(report);
        _checkSlash(task, before, report.relayer);
        bool closed = tasks.taskInfo(task).status == TaskRegistry.Status.Closed;
        if (closed && report.epoch != info.terms.numEpochs) _endShares += reserve;
        book.settled += 1;
        book.seed = keccak256(abi.encode(keccak256("flock_ray/seed/1"), book.seed, report.revealsDigest));
        book.lastReport = settlement.reportHash(report);
    }

    /// @notice The same report once more: it has no second effect, whoever else signs it.
    function settleAgain(uint256 pick) external {
        (bytes32 task,,) = _open(pick);
        if (_lastReports[task].length == 0) return;
        Report memory report = abi.decode(_lastReports[task], (Report));
        uint256 seats = (1 << _quorum(tasks.termsOf(task).numVoters)) - 1;
        bytes memory signatures = _signLast(report, settlement.reportDigest(report), seats);
        try settlement.settle(report, seats, signatures) {
            _forged("a report twice");
        } catch {}
    }

    /// @notice A member signs two messages for an epoch, of one of three kinds; its stake halves the first time only, if the
    /// epoch can have been signed. Whoever accuses may be the culprit.
    function equivocate(uint256 pick, uint256 member, uint64 epoch, uint256 accuser) external {
        (bytes32 task,, bool running) = _open(pick);
        member %= MEMBERS;
        epoch %= 6;
        string memory kind = accuser % 3 == 0 ? "acknowledgement" : accuser % 3 == 1 ? "manifest" : "ballot_a";
        bytes memory signatures = bytes.concat(
            _signedBy(members[member], settlement.messageDigest(task, epoch, "seed", kind, "first")),
            _signedBy(members[member], settlement.messageDigest(task, epoch, "seed", kind, "second"))
        );
        uint256 stake = tasks.memberAt(task, member).stake;
        bool allowed = epoch != 0 && epoch <= tasks.taskInfo(task).lastSettled + 2 && !_punished[task][member][epoch];
        Before memory before = _before(task);
        address caller = accuser % 9 == 8 ? RELAYER : members[accuser % 9];
        vm.prank(caller);
        try settlement.slashEquivocation(task, members[member], epoch, "seed", kind, "first", "second", signatures) {
            if (!allowed) _forged("an equivocation twice, or of no epoch");
            _punished[task][member][epoch] = true;
        } catch {
            if (allowed) _forged("a true equivocation refused");
        }
        vm.assertEq(tasks.memberAt(task, member).stake, allowed ? stake - stake / 2 : stake, "half the stake, once");
        if (!running) tasks.refund(task);
        _checkSlash(task, before, caller);
    }

    function _before(bytes32 task) private view returns (Before memory before) {
        before.wealth = _wealths();
        before.held = token.balanceOf(address(vault)) + token.balanceOf(address(distributor));
        before.locks = _stakes(task);
        for (uint256 i; i < MEMBERS; ++i) {
            StakeVault.PoolInfo memory info = vault.pool(members[i]);
            before.staked += info.own + info.delegated + info.ownThawing + info.thawing;
            before.ownLocks += vault.lockOf(task, members[i]).own;
        }
    }

    /// @dev What everybody has who could gain by a slash: in the wallet, and at stake.
    function _wealths() private view returns (uint256[] memory wealth) {
        wealth = new uint256[](MEMBERS + POOLED + 2);
        for (uint256 i; i < MEMBERS; ++i) {
            StakeVault.PoolInfo memory info = vault.pool(members[i]);
            wealth[i] = token.balanceOf(members[i]) + info.own + info.ownThawing;
        }
        for (uint256 i; i < POOLED; ++i) {
            uint256 worth = vault.delegation(members[i], delegators[i]).assets;
            wealth[MEMBERS + i] = token.balanceOf(delegators[i]) + worth;
        }
        (wealth[MEMBERS + POOLED], wealth[MEMBERS + POOLED + 1]) = (token.balanceOf(CREATOR), token.balanceOf(RELAYER));
    }

    /// @dev Nobody has more than before, but whoever brought the slash, by a tenth of the own stake that it took at most, and
    /// the creator by what closing the task gives back of its pool.
    function _checkSlash(bytes32 task, Before memory before, address bringer) private {
        Before memory now_ = _before(task);
        uint256 own = before.ownLocks - now_.ownLocks;
        bool over = tasks.taskInfo(task).status == TaskRegistry.Status.Closed;
        for (uint256 i; i < now_.wealth.length; ++i) {
            bool brought = i < MEMBERS ? bringer == members[i] : i == MEMBERS + POOLED + 1 && bringer == RELAYER;
            uint256 most = before.wealth[i] + (brought ? own / 10 : 0);
            if (i == MEMBERS + POOLED && over) most += before.pool;
            if (now_.wealth[i] > most) ++enriched;
        }
        Book storage book = _books[task];
        uint256 lost = before.locks - now_.locks;
        uint256 taken = before.staked - now_.staked;
        book.slashed += lost;
        book.paidOut += before.held - (now_.held);
        book.paidIn = book.paidIn + taken - lost; // an exhausted generation takes its rest with it, once
        if (taken > lost) ahead += taken - lost;
        _slashed += taken;
        _rewarded += own / 10;
    }

    /// @notice The guardian disables a root that waits, if there is one.
    function disable(uint256 pick, bool newer) external {
        (bytes32 task,,) = _open(pick);
        distributor.promote(task);
        RewardDistributor.Queue memory queue = distributor.queueOf(task);
        RewardDistributor.Pending memory target = newer && queue.latest.readyAt != 0 ? queue.latest : queue.first;
        vm.prank(GUARDIAN);
        try distributor.disable(task, target.root) {
            if (target.readyAt == 0) _forged("a root that does not wait disabled");
        } catch {
            if (target.readyAt != 0) _forged("a root that waits not disabled");
        }
    }

    /// @notice The committee insists on what was disabled, or goes back to what stands.
    function correct(uint256 pick, bool insist) external {
        (bytes32 task, Book storage book, bool running) = _open(pick);
        distributor.promote(task);
        RewardDistributor.Queue memory queue = distributor.queueOf(task);
        if (!queue.frozen) return;
        RewardDistributor.Account memory money = distributor.accountOf(task);
        Report memory report = abi.decode(_lastReports[task], (Report));
        bytes32 root = insist ? report.rewardsRoot : queue.first.readyAt != 0 ? queue.first.root : money.root;
        uint128 total = insist ? money.committed : queue.first.readyAt != 0 ? queue.first.total : queue.activeTotal;
        if (insist && _sum(_earnedUnder[root]) != total) return; // a correction came in between

        uint256 seats = (1 << _quorum(tasks.termsOf(task).numVoters)) - 1;
        bytes32 digest = settlement.correctionDigest(settlement.reportHash(report), queue.disabled, root, total);
        bytes memory signatures = _signLast(report, digest, seats);
        settlement.correct(report, root, total, seats, signatures);
        book.earned = _earnedUnder[root];
        uint256 received = token.balanceOf(CREATOR);
        if (!running) tasks.refund(task);
        book.paidOut += token.balanceOf(CREATOR) - received;
    }

    /// @notice A day is released, and a part of it burnt: neither ever gets past the cap.
    function emitDay(uint256 day, uint256 burn) external {
        day %= 40;
        try emission.release(day) {} catch {}
        burn = bound(burn, 0, token.balanceOf(TREASURY));
        vm.prank(TREASURY);
        token.burn(burn);
        burnt += burn;
    }

    /// @notice A report with one signature too few, with a stranger's, for a wrong epoch, or over budget never settles.
    function forge(uint256 pick, uint256 trick, uint128 rewards) external {
        (bytes32 task,, bool running) = _open(pick);
        if (!running) return;
        uint256 seats = (1 << _quorum(tasks.termsOf(task).numVoters)) - 1;
        Report memory report = _report(task);
        trick %= 5;
        if (trick == 0) seats >>= 1;
        if (trick == 2) report.epoch += 1;
        if (trick == 3) {
            report.rewardsTotal += _budget(task) + 1 + rewards % (POOL + 1);
        }
        bytes memory signatures = _sign(report, seats);
        if (trick == 1) signatures = bytes.concat(_signature(99, settlement.reportDigest(report)), _tail(signatures));
        if (trick == 4) signatures = _doubled(signatures); // one voter for two seats
        try settlement.settle(report, seats, signatures) {
            _forged("a forged report");
        } catch {}
    }

    function claim(uint256 pick, uint256 member, uint256 extra) external {
        (bytes32 task, Book storage book,) = _open(pick);
        member %= MEMBERS;
        address account = members[member];
        distributor.promote(task);
        uint256[] memory earned = _earnedUnder[distributor.accountOf(task).root];
        bytes32[] memory proof = Merkle.prove(_tree(task, earned), _leaf(task, account, earned[member]));
        uint256 claimed = distributor.claimed(task, account);
        uint256 wallet = token.balanceOf(account);
        uint256 before = wallet + token.balanceOf(address(vault));
        extra = extra % 3 == 0 ? bound(extra, 1, POOL) : 0;
        _claim(task, account, earned[member] + extra, proof, extra != 0);
        if (member < POOLED && member != UNLISTED) {
            vm.assertEq(token.balanceOf(account), wallet, "never past the pool");
        } else {
            vm.assertEq(vault.pool(account).operatorRewards, 0, "nor into a pool without delegators");
        }
        uint256 paid = token.balanceOf(account) + token.balanceOf(address(vault)) - before;
        vm.assertEq(distributor.claimed(task, account), claimed + paid, "claims only grow, by what is paid");
        book.paidOut += paid;
    }

    function _forged(string memory what) private {
        forgery = what;
    }

    /// @dev In either way; one of them is the wrong one.
    function _claim(bytes32 task, address account, uint256 cumulative, bytes32[] memory proof, bool forged) private {
        try distributor.claim(task, account, cumulative, proof) {
            if (forged) _forged("a forged claim");
        } catch {}
        try distributor.claimToPool(task, account, cumulative, proof) {
            if (forged) _forged("a forged claim of a pool");
            dust += 2;
        } catch {}
    }

    function abandon(uint256 pick, uint64 wait) external {
        (bytes32 task, Book storage book, bool running) = _open(pick);
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        vm.warp(block.timestamp + wait % (4 * DEADLINE));
        uint256 from = settlement.abandonableFrom(task, info.lastSettled + 1);
        uint256 before = token.balanceOf(address(distributor));
        uint256 reserve = distributor.accountOf(task).reserve;
        try settlement.abandon(task, info.lastSettled + 1) {
            if (!running || block.timestamp <= info.epochStart + 2 * DEADLINE) _forged("abandoned early");
            if (from == 0) {
                vm.assertEq(settlement.abandonableFrom(task, info.lastSettled + 1), block.timestamp + GRACE);
                vm.assertEq(tasks.taskInfo(task).lastSettled, info.lastSettled);
                return;
            }
            if (block.timestamp < from) _forged("abandoned within the grace");
            book.abandoned += 1;
            book.seed = keccak256(abi.encode(keccak256("flock_ray/skip/1"), book.seed));
            book.paidOut += before - token.balanceOf(address(distributor));
            if (tasks.taskInfo(task).status == TaskRegistry.Status.Closed) _endShares += reserve;
        } catch {}
    }

    function release(uint256 pick, uint256 member) external {
        (bytes32 task, Book storage book, bool running) = _open(pick);
        address account = members[member % MEMBERS];
        uint256 amount = vault.lockedStake(task, account);
        StakeVault.Lock memory lock = vault.lockOf(task, account);
        StakeVault.PoolInfo memory before = vault.pool(account);
        try tasks.release(task, account) {
            uint256 left = tasks.memberAt(task, member % MEMBERS).leftAt; // a slash may have made it leave
            uint256 from = left != 0 ? left + EVIDENCE_WINDOW : running ? type(uint256).max : tasks.releasableAt(task);
            if (block.timestamp < from) _forged("released early");
        } catch {}
        amount -= vault.lockedStake(task, account);
        StakeVault.PoolInfo memory info = vault.pool(account);
        vm.assertEq(before.ownLocked - info.ownLocked, amount == 0 ? 0 : lock.own);
        vm.assertEq(before.delegatedLocked - info.delegatedLocked, amount == 0 ? 0 : lock.delegated);
        book.released += amount;
        book.paidOut += amount;
    }

    /// @notice Stake comes, goes and thaws beside the tasks; more of it comes from a member's delegator, or it takes its rewards.
    function move(uint256 member, uint256 kind, uint256 amount) external {
        address account = members[member % MEMBERS];
        address delegator = delegators[member % POOLED];
        StakeVault.PoolInfo memory info = vault.pool(account);
        uint32 epoch = vault.currentEpoch();
        kind %= 7;
        if (kind == 0 && info.own != 0) {
            vm.prank(account);
            vault.unstake(bound(amount, 1, info.own));
        }
        if (kind == 1) _enrol(account, bound(amount, 1, STAKE));
        if (kind == 2 && info.accepts) {
            amount = bound(amount, MINIMUM, STAKE);
            _give(delegator, amount);
            vm.prank(delegator);
            vault.delegate(account, amount);
        }
        uint256 shares = vault.delegation(account, delegator).shares;
        if (kind == 3 && shares != 0) {
            vm.prank(delegator);
            vault.undelegate(account, shares - bound(amount, 0, 1) * (shares > 2 * MINIMUM ? shares / 2 : 0));
        }
        for (uint32 past = epoch > 20 && kind == 4 ? epoch - 20 : epoch; past < epoch; ++past) {
            vm.prank(account);
            try vault.withdrawStake(past) {
                StakeVault.PoolInfo memory left = vault.pool(account);
                vm.assertLe(left.ownLocked, left.own + left.ownThawing, "an operator answers for its part");
            } catch {}
            vm.prank(delegator);
            try vault.withdraw(account, past) {} catch {}
        }
        if (kind == 5) vm.warp(block.timestamp + 1 days);
        if (kind == 6) {
            vm.prank(delegator);
            vault.claim(account);
            vm.prank(account);
            vault.claimOperatorRewards();
        }
        dust += 2;
    }

    function checkBooks(bytes32 task) external view {
        Book storage book = _books[task];
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        vm.assertEq(
            _owed(task) + _stakes(task), book.paidIn - book.paidOut, "a task owes what came in less what went out"
        );
        vm.assertLe(info.claimed, info.committed, "claimed <= committed");
        vm.assertLe(info.committed, info.terms.pool, "committed <= pool: no slash pays an epoch");
        vm.assertEq(_stakes(task) + book.slashed + book.released, MEMBERS * STAKE, "stakes only fall");
        vm.assertEq(info.lastSettled, book.settled + book.abandoned, "every epoch counts once");
        vm.assertLe(info.lastSettled, info.terms.numEpochs, "no epoch too many");
        vm.assertEq(info.lastReport, book.lastReport);
        vm.assertEq(info.seed, book.seed);
        (, uint256 next) = tasks.dueAt(task, info.lastSettled + 1);
        bool over = info.lastSettled == info.terms.numEpochs || info.skips == info.terms.maxSkips
            || next <= info.terms.numVoters;
        vm.assertTrue(over == (info.status == TaskRegistry.Status.Closed), "closed when and only when it is over");
        vm.assertTrue(!over || info.poolLeft + info.escrow == 0, "a closed task keeps no pool");

        uint256 claimed;
        uint256 earned;
        for (uint256 i; i < MEMBERS; ++i) {
            uint256 mine = distributor.claimed(task, members[i]);
            vm.assertLe(mine, book.earned[i], "nobody claims more than it earned");
            claimed += mine;
            earned += book.earned[i];
        }
        vm.assertEq(claimed, info.claimed, "claims add up");
        vm.assertEq(earned, info.committed, "rewards add up");
        RewardDistributor.Account memory money = distributor.accountOf(task);
        vm.assertLe(money.committed, money.deposited, "committed <= deposited");
    }

    function checkTokens() external view {
        _checkHoldings(ids[0], ids[1]);
        uint256 sum = token.balanceOf(address(vault)) + token.balanceOf(address(distributor));
        sum += token.balanceOf(address(this)) + token.balanceOf(TREASURY) + token.balanceOf(CREATOR)
        + token.balanceOf(RELAYER) + token.balanceOf(SINK);
        for (uint256 i; i < MEMBERS; ++i) {
            sum += token.balanceOf(members[i]);
        }
        for (uint256 i; i < delegators.length; ++i) {
            sum += token.balanceOf(delegators[i]);
        }
        vm.assertEq(sum, token.totalSupply(), "no token is made or lost");
        vm.assertEq(token.totalSupply() + burnt, token.totalMinted(), "no token is made but by a release");
        vm.assertLe(token.totalMinted(), 1e27, "minted for ever");
    }

    /// @notice Everything that slashes took is with their bringers, in escrow, or in the sink, beside unsettled end shares.
    function checkSlashed() external view {
        uint256 escrow;
        for (uint256 i; i < 2; ++i) {
            escrow += distributor.accountOf(ids[i]).escrow;
        }
        vm.assertEq(_slashed + _endShares, _rewarded + escrow + token.balanceOf(SINK), "slashed stake");
    }

    /// @notice Delegators whose operator has listed no creator lose nothing, and have no part of a task.
    function checkUnlisted() external view {
        StakeVault.PoolInfo memory info = vault.pool(members[UNLISTED]);
        vm.assertEq(info.delegated, info.shares, "a share is worth a wei");
        vm.assertEq(info.delegatedLocked + info.generation, 0);
        for (uint256 i; i < 2; ++i) {
            vm.assertTrue(!distributor.paidToPool(ids[i], members[UNLISTED]), "alone");
            vm.assertTrue(distributor.paidToPool(ids[i], members[0]), "with its delegators");
        }
    }

    /// @dev Voters of the next epoch, after the leaves that are due: all members have one slot.
    function _voters(bytes32 task) private view returns (address[] memory voters) {
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        (uint256 changes, uint256 count) = tasks.dueAt(task, info.lastSettled + 1);
        address[] memory owners = _owners(task, info.numSlots);
        for (uint256 i; i < changes; ++i) {
            address leaver = members[tasks.changesOf(task, info.numApplied + i, info.numApplied + i + 1)[0].member];
            uint256 slot;
            while (owners[slot] != leaver) ++slot;
            owners[slot] = owners[info.numSlots - 1 - i];
        }
        uint256[] memory slots =
            settlement.drawSeats(info.seed, task, info.lastSettled + 1, uint32(count), info.terms.numVoters);
        voters = new address[](slots.length);
        for (uint256 seat; seat < slots.length; ++seat) {
            voters[seat] = owners[slots[seat]];
        }
    }

    function _owners(bytes32 task, uint256 count) private view returns (address[] memory) {
        uint256[] memory slots = new uint256[](count);
        for (uint256 i; i < count; ++i) {
            slots[i] = i;
        }
        return tasks.slotOwners(task, slots);
    }

    function _sign(Report memory report, uint256 seats) internal view override returns (bytes memory signatures) {
        address[] memory voters = _voters(report.task);
        bytes32 digest = settlement.reportDigest(report);
        for (uint256 seat; seat < voters.length; ++seat) {
            if ((seats >> seat) & 1 == 1) signatures = bytes.concat(signatures, _signedBy(voters[seat], digest));
        }
    }

    function _open(uint256 pick) private view returns (bytes32 task, Book storage book, bool running) {
        task = ids[pick % 2];
        book = _books[task];
        running = tasks.taskInfo(task).status == TaskRegistry.Status.Running;
    }

    /// @dev Written a second time: what the pool still has, less the end share, over the epochs that are left.
    function _budget(bytes32 task) private view returns (uint128) {
        TaskRegistry.TaskInfo memory info = tasks.taskInfo(task);
        uint128 left = uint128(info.terms.numEpochs - info.lastSettled);
        if (left == 1) return info.poolLeft;
        return (info.poolLeft - info.terms.pool * info.terms.endShareBps / 10_000) / left;
    }

    function _sum(uint256[] memory values) private pure returns (uint256 sum) {
        for (uint256 i; i < values.length; ++i) {
            sum += values[i];
        }
    }

    /// @dev Signatures by the committee of the last report's epoch.
    function _signLast(Report memory report, bytes32 digest, uint256 seats)
        private
        view
        returns (bytes memory signatures)
    {
        uint32 voters = tasks.termsOf(report.task).numVoters;
        uint32 count = tasks.taskInfo(report.task).numSlots;
        uint256[] memory slots = settlement.drawSeats(report.seed, report.task, report.epoch, count, voters);
        address[] memory owners = tasks.slotOwners(report.task, slots);
        for (uint256 seat; seats >> seat != 0; ++seat) {
            signatures = bytes.concat(signatures, _signedBy(owners[seat], digest));
        }
    }

    /// @dev The first signature in the place of the second too.
    function _doubled(bytes memory signatures) private pure returns (bytes memory doubled) {
        doubled = bytes.concat(signatures);
        for (uint256 i; i < 64; ++i) {
            doubled[64 + i] = signatures[i];
        }
    }

    function _tail(bytes memory signatures) private pure returns (bytes memory tail) {
        tail = new bytes(signatures.length - 64);
        for (uint256 i; i < tail.length; ++i) {
            tail[i] = signatures[i + 64];
        }
    }
}

contract InvariantsTest is Base {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Handler private handler;

    function setUp() public {
        handler = new Handler();
        handler.setUp();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory selectors = new bytes4[](13);
        selectors[0] = Handler.settle.selector;
        selectors[1] = Handler.settle.selector; // twice as likely
        selectors[2] = Handler.claim.selector;
        selectors[3] = Handler.abandon.selector;
        selectors[4] = Handler.release.selector;
        selectors[5] = Handler.forge.selector;
        selectors[6] = Handler.settleAgain.selector;
        selectors[7] = Handler.equivocate.selector;
        selectors[8] = Handler.disable.selector;
        selectors[9] = Handler.correct.selector;
        selectors[10] = Handler.emitDay.selector;
        selectors[11] = Handler.move.selector;
        selectors[12] = Handler.move.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), selectors);
    }

    function invariant_BooksOfFirstTask() public view {
        handler.checkBooks(handler.ids(0));
    }

    function invariant_BooksOfSecondTask() public view {
        handler.checkBooks(handler.ids(1));
    }

    function invariant_Tokens() public view {
        handler.checkTokens();
    }

    function invariant_NoForgery() public view {
        vm.assertTrue(bytes(handler.forgery()).length == 0, handler.forgery());
    }

    function invariant_SlashesEnrichNobody() public view {
        vm.assertEq(handler.enriched(), 0);
    }

    function invariant_SlashedStakeIsConserved() public view {
        handler.checkSlashed();
    }

    function invariant_DelegatorsOfNoListedCreatorLoseNothing() public view {
        handler.checkUnlisted();
    }
}
