// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Committees} from "./Committees.sol";
import {ISettlement} from "./ISettlement.sol";
import {RewardDistributor} from "./RewardDistributor.sol";
import {TaskRegistry} from "./TaskRegistry.sol";
import {Clock} from "./libraries/Clocks.sol";
import {Report, Reports, Slash} from "./libraries/Reports.sol";
import {Signatures} from "./libraries/Signatures.sol";

/// @title Slashes that need no committee: what a member's own signatures prove, or their absence
/// @notice Anybody may bring a case and gets a tenth of what it costs the member of its own; the rest goes into the task's
/// escrow, or to the sink. A member that accuses itself loses nine tenths of the slash. They reach the stakes of running
/// tasks, and of closed ones until the member has withdrawn.
abstract contract Misconduct is Committees {
    /// @notice A challenge of a seat whose signature was missing.
    /// @param owner Owner of the seat.
    /// @param deadline Time until which nobody can slash it.
    /// @param over Whether it was answered, or slashed.
    /// @param challenger Gets the reward.
    /// @param slashableFrom Time from which a second call may slash it; zero: nobody has made the first one.
    /// @param reportHash Struct hash of the report that the owner must have signed.
    struct Challenge {
        address owner;
        uint64 deadline;
        bool over;
        address challenger;
        uint64 slashableFrom;
        bytes32 reportHash;
    }

    /// @notice Part of what is left of its stake that a member loses for each equivocation, in basis points.
    uint256 public constant EQUIVOCATION_BPS = 5_000;

    uint256 private constant BPS = 10_000;
    bytes32 private constant REPORT_KIND = keccak256("report");
    bytes32 private constant COMMITMENT = keccak256("commitment");
    bytes32 private constant ACKNOWLEDGEMENT = keccak256("acknowledgement");
    bytes32 private constant MANIFEST = keccak256("manifest");
    bytes32 private constant BALLOT_A_COMMITMENT = keccak256("ballot_a_commitment");
    bytes32 private constant BALLOT_A = keccak256("ballot_a");
    bytes32 private constant BALLOT_B_COMMITMENT = keccak256("ballot_b_commitment");
    bytes32 private constant BALLOT_B = keccak256("ballot_b");
    bytes32 private constant GATE = keccak256("gate");
    bytes32 private constant RUNG_1_COMMITMENT = keccak256("rung_1_commitment");
    bytes32 private constant RUNG_1_BALLOT = keccak256("rung_1_ballot");
    bytes32 private constant RUNG_1_RESCORE = keccak256("rung_1_rescore");
    bytes32 private constant RUNG_2_COMMITMENT = keccak256("rung_2_commitment");
    bytes32 private constant RUNG_2_BALLOT = keccak256("rung_2_ballot");
    bytes32 private constant RUNG_2_RESCORE = keccak256("rung_2_rescore");
    bytes32 private constant RUNG_3_COMMITMENT = keccak256("rung_3_commitment");
    bytes32 private constant RUNG_3_BALLOT = keccak256("rung_3_ballot");
    bytes32 private constant RUNG_3_RESCORE = keccak256("rung_3_rescore");
    bytes32 private constant FINAL_COMMITMENT = keccak256("final_commitment");
    bytes32 private constant FINAL_BALLOT = keccak256("final_ballot");
    bytes32 private constant FINAL_RESCORE = keccak256("final_rescore");

    /// @notice Part of what is left of its stake that an absent voter loses, in basis points.
    uint16 public immutable absenceBps;

    /// @notice Seconds in which a challenged voter may show its signature.
    uint64 public immutable responseWindow;

    /// @inheritdoc ISettlement
    uint64 public immutable grace;

    /// @notice Whether an equivocation was punished: keccak of (task, account, epoch).
    mapping(bytes32 offence => bool) public punished;

    mapping(bytes32 task => mapping(uint64 epoch => mapping(uint256 seat => Challenge))) private _challenges;

    /// @notice A member signed two different messages of one kind, or two different reports, for one epoch.
    event Equivocated(bytes32 indexed task, uint64 indexed epoch, address indexed account, bytes32 kind);
    /// @notice A seat whose signature was missing was challenged; its owner may answer until the deadline.
    event Challenged(bytes32 indexed task, uint64 indexed epoch, uint256 indexed seat, address owner, uint64 deadline);
    /// @notice A challenged seat may be slashed from this time on, unless its signature is shown before.
    event SlashAnnounced(bytes32 indexed task, uint64 indexed epoch, uint256 indexed seat, uint64 from);
    /// @notice A challenged seat's signature was shown.
    event Answered(bytes32 indexed task, uint64 indexed epoch, uint256 indexed seat);

    /// @notice The two messages are the same.
    error NoConflict(bytes32 digest);
    /// @notice The account did not sign both messages.
    error NotSignedBy(address account);
    /// @notice The two reports are not about the same task, epoch and seed.
    error DifferentEpochs();
    /// @notice This member was punished for this.
    error AlreadyPunished(bytes32 offence);
    /// @notice The seat signed, or the committee does not have it.
    error NotAbsent(uint256 seat);
    /// @notice The seat was challenged for this epoch.
    error AlreadyChallenged(uint256 seat);
    /// @notice The seat was not challenged, or the case is over.
    error NoChallenge(uint256 seat);
    /// @notice No message of this kind is ever signed.
    error UnknownKind(string kind);
    /// @notice No epoch with this number can have been signed yet.
    error UnknownEpoch(uint64 epoch, uint256 last);
    /// @notice The seat may still answer.
    error ResponseWindowOpen(uint64 deadline);
    /// @notice The second call may be made only from this time on.
    error GraceNotOver(uint64 from);
    /// @notice The share of the stake is above all of it.
    error InvalidShare(uint16 bps);

    constructor(
        TaskRegistry registry_,
        RewardDistributor distributor_,
        uint16 absenceBps_,
        uint64 responseWindow_,
        uint64 grace_
    ) Committees(registry_, distributor_) {
        if (absenceBps_ > BPS) revert InvalidShare(absenceBps_);
        grace = grace_;
        absenceBps = absenceBps_;
        responseWindow = responseWindow_;
    }

    /// @notice Slashes a member that signed two different messages of one kind for one epoch; once an epoch, whatever it
    /// signed there.
    /// @dev Under one seed: an epoch that was signed and then made void by an abandoned one runs again under another.
    /// @param task Task.
    /// @param account The member.
    /// @param epoch Epoch of both messages.
    /// @param seed Seed of the epoch that both were signed under.
    /// @param kind Kind of both messages.
    /// @param first Digest of one message.
    /// @param second Digest of the other.
    /// @param signatures EIP-2098 signatures of both `messageDigest`s, 128 bytes.
    function slashEquivocation(
        bytes32 task,
        address account,
        uint64 epoch,
        bytes32 seed,
        string calldata kind,
        bytes32 first,
        bytes32 second,
        bytes calldata signatures
    ) external {
        if (first == second) revert NoConflict(first);
        bytes32 kindHash = keccak256(bytes(kind));
        if (!_isKind(kindHash)) revert UnknownKind(kind);
        bytes32 one = messageDigest(task, epoch, seed, kind, first);
        bytes32 other = messageDigest(task, epoch, seed, kind, second);
        _requireSignedBoth(account, one, other, signatures);
        _punish(task, epoch, kindHash, account);
    }

    /// @notice Slashes a member that signed two different reports for one epoch under one seed; once an epoch, as above.
    /// @param account The member.
    /// @param first One report.
    /// @param second The other.
    /// @param signatures EIP-2098 signatures of both `reportDigest`s, 128 bytes.
    function slashReportEquivocation(
        address account,
        Report calldata first,
        Report calldata second,
        bytes calldata signatures
    ) external {
        bool alike = first.task == second.task && first.epoch == second.epoch && first.seed == second.seed;
        if (!alike) revert DifferentEpochs();
        bytes32 one = Reports.hash(first);
        bytes32 other = Reports.hash(second);
        if (one == other) revert NoConflict(one);
        _requireSignedBoth(account, _hashTypedDataV4(one), _hashTypedDataV4(other), signatures);
        _punish(first.task, first.epoch, REPORT_KIND, account);
    }

    /// @notice Asks a voter seat whose signature the last report came without to show it. It must be asked before the
    /// next report is settled.
    /// @param report The report that was settled last.
    /// @param seat The seat.
    function challengeAbsence(Report calldata report, uint256 seat) external {
        bytes32 hash = _requireLast(report);
        Clock memory clock = _clockOf(report.task);
        // slither-disable-next-line incorrect-equality: a bit is 0 or 1
        if (seat >= clock.numVoters || (clock.absent >> seat) & 1 == 0) revert NotAbsent(seat);
        Challenge storage challenge = _challenges[report.task][report.epoch][seat];
        if (challenge.deadline != 0) revert AlreadyChallenged(seat);

        uint256[] memory slot = new uint256[](1);
        slot[0] = _draw(report.seed, report.task, report.epoch, clock)[seat];
        challenge.owner = registry.slotOwners(report.task, slot)[0];
        challenge.deadline = uint64(block.timestamp) + responseWindow;
        challenge.challenger = msg.sender;
        challenge.reportHash = hash;
        emit Challenged(report.task, report.epoch, seat, challenge.owner, challenge.deadline);
    }

    /// @notice Shows the signature of a challenged seat, before it is slashed; anybody may. The case is over.
    /// @param task Task.
    /// @param epoch Epoch of the report.
    /// @param seat The seat.
    /// @param signature Its EIP-2098 signature of the report.
    function answerChallenge(bytes32 task, uint64 epoch, uint256 seat, bytes calldata signature) external {
        Challenge storage challenge = _openChallenge(task, epoch, seat);
        _checkLength(signature, 1);
        address owner = challenge.owner;
        if (!Signatures.isBy(owner, _hashTypedDataV4(challenge.reportHash), signature)) {
            revert InvalidSignature(0, owner);
        }
        challenge.over = true;
        emit Answered(task, epoch, seat);
    }

    /// @notice Slashes a challenged voter that has shown no signature in time; anybody may call, the challenger is paid. It
    /// takes two calls, `grace` seconds apart, in which the signature can still be shown.
    function slashAbsent(bytes32 task, uint64 epoch, uint256 seat) external {
        Challenge storage challenge = _openChallenge(task, epoch, seat);
        if (block.timestamp <= challenge.deadline) revert ResponseWindowOpen(challenge.deadline);
        uint64 from = challenge.slashableFrom;
        if (grace != 0 && from == 0) {
            from = uint64(block.timestamp) + grace;
            challenge.slashableFrom = from;
            emit SlashAnnounced(task, epoch, seat, from);
            return;
        }
        if (block.timestamp < from) revert GraceNotOver(from);
        challenge.over = true;
        _slashShare(task, epoch, challenge.owner, absenceBps, challenge.challenger);
    }

    /// @notice State of the challenge of a seat; all zero when there is none.
    function challengeOf(bytes32 task, uint64 epoch, uint256 seat) external view returns (Challenge memory) {
        return _challenges[task][epoch][seat];
    }

    function _openChallenge(bytes32 task, uint64 epoch, uint256 seat) private view returns (Challenge storage found) {
        found = _challenges[task][epoch][seat];
        if (found.deadline == 0 || found.over) revert NoChallenge(seat);
    }

    function _requireSignedBoth(address account, bytes32 one, bytes32 other, bytes calldata signatures) private view {
        _checkLength(signatures, 2);
        bytes calldata first = signatures[:Signatures.LENGTH];
        bytes calldata second = signatures[Signatures.LENGTH:];
        if (!Signatures.isBy(account, one, first) || !Signatures.isBy(account, other, second)) {
            revert NotSignedBy(account);
        }
    }

    function _isKind(bytes32 kind) private pure returns (bool) {
        return kind == COMMITMENT || kind == ACKNOWLEDGEMENT || kind == MANIFEST || kind == BALLOT_A_COMMITMENT
            || kind == BALLOT_A || kind == BALLOT_B_COMMITMENT || kind == BALLOT_B || _isContestKind(kind);
    }

    /// @dev Of the messages that only a contest has.
    function _isContestKind(bytes32 kind) private pure returns (bool) {
        return kind == GATE || kind == RUNG_1_COMMITMENT || kind == RUNG_1_BALLOT || kind == RUNG_1_RESCORE
            || kind == RUNG_2_COMMITMENT || kind == RUNG_2_BALLOT || kind == RUNG_2_RESCORE || kind == RUNG_3_COMMITMENT
            || kind == RUNG_3_BALLOT || kind == RUNG_3_RESCORE || kind == FINAL_COMMITMENT || kind == FINAL_BALLOT
            || kind == FINAL_RESCORE;
    }

    function _punish(bytes32 task, uint64 epoch, bytes32 kind, address account) private {
        Clock memory clock = _clockOf(task);
        // slither-disable-next-line incorrect-equality: zero is for a task that has not begun
        if (clock.numEpochs == 0) revert NotRunning(task);
        uint256 last = uint256(clock.lastSettled) + registry.termsOf(task).maxUnsettled + 1;
        if (epoch == 0 || epoch > last) revert UnknownEpoch(epoch, last);
        bytes32 offence = keccak256(abi.encode(task, account, epoch));
        if (punished[offence]) revert AlreadyPunished(offence);
        punished[offence] = true;
        emit Equivocated(task, epoch, account, kind);
        _slashShare(task, epoch, account, EQUIVOCATION_BPS, msg.sender);
    }

    /// @dev Strangers have no stake: the registry refuses them.
    function _slashShare(bytes32 task, uint64 epoch, address account, uint256 bps, address rewarded) private {
        uint256 index = registry.indexOf(task, account);
        uint256 stake = registry.memberAt(task, index).stake;
        Slash[] memory slashes = new Slash[](1);
        slashes[0] = Slash(uint32(index), uint128(stake * bps / BPS));
        registry.slash(task, epoch, slashes, rewarded);
    }
}
