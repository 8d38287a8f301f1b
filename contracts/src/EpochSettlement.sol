// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ISettlement} from "./ISettlement.sol";
import {Misconduct} from "./Misconduct.sol";
import {RewardDistributor} from "./RewardDistributor.sol";
import {TaskRegistry} from "./TaskRegistry.sol";
import {Clock, Clocks} from "./libraries/Clocks.sol";
import {Report, Reports} from "./libraries/Reports.sol";
import {Terms} from "./libraries/TaskTerms.sol";

/// @title Settlement of epochs by their committees
/// @notice One transaction settles an epoch for everybody: a report signed by more than two thirds of the epoch's voter
/// seats. Whoever sends it can change nothing in it. No account has a role here: nobody can settle, slash or abandon
/// but by what members signed, or by time that passed.
contract EpochSettlement is Misconduct {
    /// @notice Most slashes of one report; the rest is carried over to a later one.
    uint256 public constant MAX_SLASHES = 16;

    /// @dev An epoch that somebody wants to abandon, and the time from which that may be done.
    struct Announced {
        uint64 epoch;
        uint64 from;
    }

    bytes32 private constant TAG_SEED = keccak256("flock_ray/seed/1");
    bytes32 private constant TAG_SKIP = keccak256("flock_ray/skip/1");

    mapping(bytes32 task => Announced) private _abandonments;

    /// @notice An epoch was settled.
    event EpochSettled(
        bytes32 indexed task,
        uint64 indexed epoch,
        bytes32 reportHash,
        bytes32 rewardsRoot,
        uint128 rewardsTotal,
        bytes32 modelHash,
        bytes32 recordHash
    );
    /// @notice An epoch may be abandoned from this time on, unless it is settled before.
    event AbandonmentAnnounced(bytes32 indexed task, uint64 indexed epoch, uint256 from);
    /// @notice An epoch was given up; the next one has this seed.
    event EpochAbandoned(bytes32 indexed task, uint64 indexed epoch, bytes32 nextSeed);

    /// @notice The caller may not do this.
    error Unauthorized(address caller);
    /// @notice This very report is settled; sending it again changes nothing.
    error AlreadySettled(uint64 epoch, bytes32 reportHash);
    /// @notice The epoch is not the next one.
    error WrongEpoch(uint64 expected, uint64 got);
    /// @notice The report does not continue the chain of settled reports.
    error WrongPreviousReport(bytes32 expected, bytes32 got);
    /// @notice The report was made under another seed.
    error WrongSeed(bytes32 expected, bytes32 got);
    /// @notice The report holds more than `MAX_SLASHES` slashes.
    error TooManySlashes(uint256 maximum, uint256 got);
    /// @notice The epoch may be abandoned only after this time.
    error DeadlineNotPassed(uint256 deadline);

    /// @notice Ties the contracts for good.
    /// @param registry_ Terms, members and stakes.
    /// @param distributor_ Pools and claims.
    /// @param absenceBps_ Part of its stake that an absent voter loses, in basis points; zero: nothing.
    /// @param responseWindow_ Seconds in which a challenged voter may show its signature.
    /// @param grace_ Seconds between the two calls that abandon an epoch, or slash an absent voter.
    constructor(
        TaskRegistry registry_,
        RewardDistributor distributor_,
        uint16 absenceBps_,
        uint64 responseWindow_,
        uint64 grace_
    ) Misconduct(registry_, distributor_, absenceBps_, responseWindow_, grace_) {}

    /// @inheritdoc ISettlement
    function open(bytes32 task, bytes32 seed, uint32 numEpochs, uint32 numSlots, uint32 numVoters) external {
        if (msg.sender != address(registry)) revert Unauthorized(msg.sender);
        // slither-disable-next-line uninitialized-local: all zero
        Clock memory clock;
        clock.numEpochs = uint24(numEpochs); // both within the bounds of the terms
        clock.numVoters = uint8(numVoters);
        clock.numSlots = numSlots;
        clock.epochStart = uint40(block.timestamp);
        clock.running = true;
        _heads[task] = StoredHead(seed, 0, Clocks.pack(clock));
    }

    /// @inheritdoc ISettlement
    function expectChange(bytes32 task) external {
        if (msg.sender != address(registry)) revert Unauthorized(msg.sender);
        Clock memory clock = _clockOf(task);
        clock.changing = true;
        _heads[task].clock = Clocks.pack(clock);
    }

    /// @notice Settles the next epoch of a task. Members that join or leave from this epoch on do so first. The task
    /// closes with its last epoch, and when the next one would have fewer slots than the voters and one proposer need.
    /// @param report Report of the epoch.
    /// @param seats Bitmap of the voter seats that signed; at least floor(2V / 3) + 1 of the V seats.
    /// @param signatures EIP-2098 signatures (64 bytes each) of `reportDigest(report)`, one for each set bit, ascending.
    function settle(Report calldata report, uint256 seats, bytes calldata signatures) external {
        StoredHead storage head = _heads[report.task];
        uint256 word = head.clock;
        Clock memory clock = Clocks.unpack(word);
        bytes32 hash = Reports.hash(report);
        _checkOrder(report, hash, head, clock);
        // slither-disable-next-line reentrancy-no-eth,reentrancy-events: our own contract, which calls nobody
        if (clock.changing) word = _applyChanges(report, clock);
        _checkSignatures(report, clock, _hashTypedDataV4(hash), seats, signatures);

        uint256 epochsLeft;
        unchecked {
            epochsLeft = clock.numEpochs - clock.lastSettled;
            if (epochsLeft == 1) (word, clock.running) = (Clocks.stopped(word), false);
            head.clock = Clocks.settled(word, ~seats & ((1 << clock.numVoters) - 1));
        }
        head.lastReport = hash;
        head.seed = _nextSeed(report.seed, report.revealsDigest);
        emit EpochSettled(
            report.task,
            report.epoch,
            hash,
            report.rewardsRoot,
            report.rewardsTotal,
            report.modelHash,
            report.recordHash
        );

        distributor.commit(report.task, report.rewardsRoot, report.rewardsTotal, epochsLeft);
        if (report.slashes.length != 0) {
            registry.slash(report.task, report.epoch, report.slashes, report.relayer);
        }
        if (!clock.running) registry.close(report.task);
    }

    /// @notice Gives up the next epoch when no report for it came in time. Anybody may call; nobody is slashed. It takes two
    /// calls, `grace` seconds apart, in which the epoch can still be settled: the time without a chain is nobody's fault.
    /// The model, the report chain and the slots stay; the epoch counts. It closes the task if it is the last one, or the
    /// last of `maxSkips` in a row, or if the next one would have too few slots.
    function abandon(bytes32 task, uint64 epoch) external {
        StoredHead storage head = _heads[task];
        Clock memory clock = Clocks.unpack(head.clock);
        if (!clock.running) revert NotRunning(task);
        if (epoch != uint64(clock.lastSettled) + 1) revert WrongEpoch(uint64(clock.lastSettled) + 1, epoch);
        Terms memory terms = registry.termsOf(task);
        uint256 deadline = clock.epochStart + uint256(terms.epochDeadline) * (uint256(terms.maxUnsettled) + 1);
        if (block.timestamp <= deadline) revert DeadlineNotPassed(deadline);
        if (grace != 0 && !_graceIsOver(task, epoch)) return;

        clock.lastSettled += 1;
        clock.skips += 1;
        clock.epochStart = uint40(block.timestamp);
        uint256 nextSlots = clock.numSlots;
        // slither-disable-next-line unused-return: their number does not matter yet
        if (clock.changing) (, nextSlots) = registry.dueAt(task, epoch + 1);
        clock.running =
            clock.skips != terms.maxSkips && clock.lastSettled != clock.numEpochs && nextSlots > clock.numVoters;
        head.clock = Clocks.pack(clock);
        head.seed = keccak256(abi.encode(TAG_SKIP, head.seed));
        emit EpochAbandoned(task, epoch, head.seed);
        if (!clock.running) registry.close(task);
    }

    /// @notice Time from which an epoch may be abandoned by a second call; zero: nobody has made the first one.
    function abandonableFrom(bytes32 task, uint64 epoch) external view returns (uint256) {
        Announced storage announced = _abandonments[task];
        return announced.epoch == epoch ? announced.from : 0;
    }

    /// @notice Ends a freeze: replaces the root that the guardian disabled by one that a quorum of the committee of the
    /// last settled epoch signed instead. It commits no more than that report did.
    /// @param report The report that was settled last.
    /// @param rewardsRoot Root that takes the place of the disabled one.
    /// @param rewardsTotal Sum of the rewards under it.
    /// @param seats Bitmap of the voter seats of the report's epoch that signed.
    /// @param signatures Theirs, of the `correctionDigest`, as in `settle`.
    function correct(
        Report calldata report,
        bytes32 rewardsRoot,
        uint128 rewardsTotal,
        uint256 seats,
        bytes calldata signatures
    ) external {
        bytes32 disabled = distributor.queueOf(report.task).disabled;
        bytes32 digest = correctionDigest(_requireLast(report), disabled, rewardsRoot, rewardsTotal);
        _checkSignatures(report, _clockOf(report.task), digest, seats, signatures);
        distributor.correct(report.task, rewardsRoot, rewardsTotal);
    }

    /// @dev Whether the grace after the first call of `abandon` is over; this may be that call. A settled epoch needs none.
    function _graceIsOver(bytes32 task, uint64 epoch) private returns (bool) {
        Announced storage announced = _abandonments[task];
        if (announced.epoch == epoch) {
            if (block.timestamp < announced.from) revert GraceNotOver(announced.from);
            return true;
        }
        uint64 from = uint64(block.timestamp) + grace;
        (announced.epoch, announced.from) = (epoch, from);
        emit AbandonmentAnnounced(task, epoch, from);
        return false;
    }

    /// @dev Changes are applied here and nowhere else, so that the slots stay those of the last report's committee, which
    /// may be challenged, or correct, until the next report.
    /// @param clock Gets the slots of this epoch, and whether the next one has enough.
    /// @return word The same clock.
    function _applyChanges(Report calldata report, Clock memory clock) private returns (uint256 word) {
        uint256 nextSlots;
        (clock.numSlots, nextSlots, clock.changing) = registry.applyChanges(report.task, report.epoch);
        clock.running = nextSlots > clock.numVoters;
        return Clocks.pack(clock);
    }

    /// @dev `keccak256(abi.encode(TAG_SEED, seed, revealsDigest))`.
    function _nextSeed(bytes32 seed, bytes32 revealsDigest) private pure returns (bytes32 next) {
        bytes32 tag = TAG_SEED;
        assembly ("memory-safe") {
            let words := mload(0x40)
            mstore(words, tag)
            mstore(add(words, 32), seed)
            mstore(add(words, 64), revealsDigest)
            next := keccak256(words, 96)
        }
    }

    function _checkOrder(Report calldata report, bytes32 hash, StoredHead storage head, Clock memory clock)
        private
        view
    {
        bytes32 last = head.lastReport;
        // First, so that a report sent twice is told apart from a wrong one even when it closed the task.
        if (hash == last) revert AlreadySettled(report.epoch, hash);
        if (!clock.running) revert NotRunning(report.task);
        uint64 next;
        unchecked {
            next = uint64(clock.lastSettled) + 1;
        }
        if (report.epoch != next) revert WrongEpoch(next, report.epoch);
        if (report.previousReport != last) revert WrongPreviousReport(last, report.previousReport);
        if (report.seed != head.seed) revert WrongSeed(head.seed, report.seed);
        if (report.slashes.length > MAX_SLASHES) revert TooManySlashes(MAX_SLASHES, report.slashes.length);
    }
}
