// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Receipt, Usage} from "./libraries/Usage.sol";
import {Signatures} from "./libraries/Signatures.sol";

/// @notice Money that its owner may ask back; amounts in wei.
/// @param amount All of it, what was asked for included.
/// @param requested Part that was asked for.
/// @param readyAt Time from which that part may be taken out; zero: nothing was asked for.
struct Balance {
    uint96 amount;
    uint96 requested;
    uint64 readyAt;
}

/// @notice What is fixed at deployment; times in seconds.
/// @param sink Gets what nobody may gain by a slash; nobody should have its key.
/// @param guardian May void batches that are not active yet; zero: nobody.
/// @param minStake Least stake of a gateway that settles, in wei; not zero.
/// @param activationDelay From a batch's settlement to its activation.
/// @param responseWindow In which a challenged charge may be collected.
/// @param withdrawalDelay From the request to the payment of a deposit or a stake; longer than the two above together.
struct UsageSettings {
    address sink;
    address guardian;
    uint96 minStake;
    uint64 activationDelay;
    uint64 responseWindow;
    uint64 withdrawalDelay;
}

/// @title Stakes of the gateways, the keys of their receipts, and what two receipts prove
/// @notice What a gateway stakes is slashed by half for each request that it gave two receipts. Whoever brings a case gets
/// a tenth of the slash, the sink the rest: a gateway that accuses itself loses nine tenths of it.
abstract contract GatewayStakes is EIP712 {
    using SafeERC20 for IERC20;

    /// @notice Part of what is left of its stake that a gateway loses for each offence, in basis points.
    uint256 public constant SLASH_BPS = 5_000;
    /// @notice Whoever brought the case gets 1 / `REWARD_DIVISOR` of a slash.
    uint256 public constant REWARD_DIVISOR = 10;
    uint256 private constant BPS = 10_000;

    /// @notice Token of all deposits, stakes and payouts.
    IERC20 public immutable token;
    /// @notice Gets what nobody may gain by a slash.
    address public immutable sink;
    /// @notice May void batches that are not active yet.
    address public immutable guardian;
    /// @notice Least stake of a gateway that settles, in wei.
    uint96 public immutable minStake;
    /// @notice Seconds from a batch's settlement to its activation.
    uint64 public immutable activationDelay;
    /// @notice Seconds in which a challenged charge may be collected.
    uint64 public immutable responseWindow;
    /// @notice Seconds from the request to the payment of a deposit or a stake.
    uint64 public immutable withdrawalDelay;

    /// @notice Time until which receipts of a key count against a gateway; zero: never.
    mapping(address gateway => mapping(address key => uint64)) public receiptKeyUntil;
    /// @notice Whether the two receipts of a request were punished: keccak of (gateway, request).
    mapping(bytes32 offence => bool) public punished;

    mapping(address gateway => Balance) private _stakes;

    /// @notice A gateway added to its stake.
    event GatewayStaked(address indexed gateway, uint256 amount);
    /// @notice A gateway asked for so much of its stake, all requests together; it may take it out from then on.
    event GatewayUnstakeRequested(address indexed gateway, uint256 amount, uint64 readyAt);
    /// @notice A gateway took stake out.
    event GatewayUnstaked(address indexed gateway, uint256 amount);
    /// @notice A key signs the receipts of a gateway from now on, or until a time.
    event ReceiptKeySet(address indexed gateway, address indexed key, uint64 until);
    /// @notice A gateway gave two receipts for one request.
    event ReceiptsConflict(address indexed gateway, bytes32 indexed request);
    /// @notice A gateway's stake was slashed, and `rewarded` of it paid to whoever brought the case.
    event GatewaySlashed(address indexed gateway, uint256 amount, address indexed rewardedTo, uint256 rewarded);

    /// @notice A setting is out of its bounds.
    error InvalidSettings();
    /// @notice The account must not be zero.
    error ZeroAccount();
    /// @notice An amount must not be zero.
    error ZeroAmount();
    /// @notice There is less than was asked for.
    error BalanceTooLow(uint256 available, uint256 requested);
    /// @notice Nothing may be taken out before this time; zero: nothing was asked for.
    error NotReady(uint64 readyAt);
    /// @notice The two receipts are not about one request of one gateway.
    error DifferentRequests();
    /// @notice The two receipts are the same.
    error SameReceipt(bytes32 receipt);
    /// @notice The key does not sign receipts of the gateway.
    error NotReceiptKey(address gateway, address key);
    /// @notice This digest was not signed by the account.
    error SignedByAnother(address account, bytes32 digest);
    /// @notice There must be 64 bytes for each signature.
    error WrongSignatureLength(uint256 expected, uint256 got);
    /// @notice The gateway was punished for this request.
    error RequestPunished(address gateway, bytes32 request);

    constructor(IERC20 token_, UsageSettings memory settings) EIP712("flock_ray", "1") {
        bool valid = settings.sink != address(0) && settings.minStake != 0
            && settings.withdrawalDelay > uint256(settings.activationDelay) + settings.responseWindow
            && settings.withdrawalDelay <= 365 days;
        if (!valid) revert InvalidSettings();
        token = token_;
        sink = settings.sink;
        // slither-disable-next-line missing-zero-check: zero is nobody
        guardian = settings.guardian;
        minStake = settings.minStake;
        activationDelay = settings.activationDelay;
        responseWindow = settings.responseWindow;
        withdrawalDelay = settings.withdrawalDelay;
    }

    /// @notice Adds `amount` wei, which the caller must have approved, to its stake as a gateway.
    function stake(uint96 amount) external {
        _add(_stakes[msg.sender], amount);
        emit GatewayStaked(msg.sender, amount);
        token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @notice Asks for `amount` wei of the caller's stake, in the place of what it asked for before; zero asks for
    /// nothing. It can be slashed until it is taken out, but lets nobody settle.
    function requestUnstake(uint96 amount) external {
        uint64 readyAt = _request(_stakes[msg.sender], amount);
        emit GatewayUnstakeRequested(msg.sender, amount, readyAt);
    }

    /// @notice Pays the caller the stake that it asked for, or what slashes have left of it.
    function unstake() external returns (uint256 amount) {
        amount = _release(_stakes[msg.sender]);
        emit GatewayUnstaked(msg.sender, amount);
        token.safeTransfer(msg.sender, amount);
    }

    /// @notice Lets `key` sign the caller's receipts. Without `active` it no longer does, but what it signed counts
    /// against the gateway for the withdrawal delay.
    function setReceiptKey(address key, bool active) external {
        if (key == address(0)) revert ZeroAccount();
        uint64 until = active ? type(uint64).max : uint64(block.timestamp) + withdrawalDelay;
        if (!active && receiptKeyUntil[msg.sender][key] <= until) revert NotReceiptKey(msg.sender, key);
        receiptKeyUntil[msg.sender][key] = until;
        emit ReceiptKeySet(msg.sender, key, until);
    }

    /// @notice Slashes a gateway that gave two different receipts for one request; once a request. Anybody may call.
    /// @param first One receipt.
    /// @param second The other.
    /// @param keys Receipt keys of the gateway that signed them, in this order.
    /// @param signatures Their EIP-2098 signatures of both `receiptDigest`s, 128 bytes.
    function slashReceipts(
        Receipt calldata first,
        Receipt calldata second,
        address[2] calldata keys,
        bytes calldata signatures
    ) external {
        (address gateway, bytes32 request) = (first.gateway, first.request);
        if (gateway != second.gateway || request != second.request) revert DifferentRequests();
        (bytes32 one, bytes32 other) = (receiptDigest(first), receiptDigest(second));
        if (one == other) revert SameReceipt(one);
        _checkLength(signatures, 2);
        _checkReceiptKey(gateway, keys[0]);
        _checkReceiptKey(gateway, keys[1]);
        _checkSignature(keys[0], one, signatures[:Signatures.LENGTH]);
        _checkSignature(keys[1], other, signatures[Signatures.LENGTH:]);
        bytes32 offence = keccak256(abi.encode(gateway, request));
        if (punished[offence]) revert RequestPunished(gateway, request);
        punished[offence] = true;
        emit ReceiptsConflict(gateway, request);
        _slash(gateway, msg.sender);
    }

    /// @notice A gateway's stake and what it asked for of it.
    function stakeOf(address gateway) external view returns (Balance memory) {
        return _stakes[gateway];
    }

    /// @notice EIP-712 digest of a receipt, which a receipt key signs.
    function receiptDigest(Receipt calldata receipt) public view returns (bytes32) {
        return _hashTypedDataV4(Usage.hash(receipt));
    }

    function _slash(address gateway, address rewarded) internal {
        Balance storage stake_ = _stakes[gateway];
        uint256 amount = stake_.amount * SLASH_BPS / BPS;
        uint256 reward = amount / REWARD_DIVISOR;
        stake_.amount -= uint96(amount);
        emit GatewaySlashed(gateway, amount, rewarded, reward);
        token.safeTransfer(rewarded, reward);
        token.safeTransfer(sink, amount - reward);
    }

    function _add(Balance storage balance, uint96 amount) internal {
        if (amount == 0) revert ZeroAmount();
        balance.amount += amount;
    }

    function _request(Balance storage balance, uint96 amount) internal returns (uint64 readyAt) {
        uint96 available = balance.amount;
        if (amount > available) revert BalanceTooLow(available, amount);
        readyAt = amount == 0 ? 0 : uint64(block.timestamp) + withdrawalDelay;
        (balance.requested, balance.readyAt) = (amount, readyAt);
    }

    /// @dev What was asked for, or what is left of it.
    function _release(Balance storage balance) internal returns (uint96 amount) {
        uint64 readyAt = balance.readyAt;
        if (readyAt == 0 || block.timestamp < readyAt) revert NotReady(readyAt);
        (uint96 all, uint96 requested) = (balance.amount, balance.requested);
        amount = requested < all ? requested : all;
        (balance.amount, balance.requested, balance.readyAt) = (all - amount, 0, 0);
    }

    /// @dev Stake that nobody asked for.
    function _standingStake(address gateway) internal view returns (uint96) {
        Balance storage stake_ = _stakes[gateway];
        (uint96 all, uint96 requested) = (stake_.amount, stake_.requested);
        return requested < all ? all - requested : 0;
    }

    function _checkReceiptKey(address gateway, address key) private view {
        if (block.timestamp > receiptKeyUntil[gateway][key]) revert NotReceiptKey(gateway, key);
    }

    /// @dev The account must not be zero: that is what the recovery of a wrong signature gives.
    function _checkSignature(address account, bytes32 digest, bytes calldata signature) internal view {
        if (account == address(0)) revert ZeroAccount();
        if (!Signatures.isBy(account, digest, signature)) revert SignedByAnother(account, digest);
    }

    function _checkLength(bytes calldata signatures, uint256 count) internal pure {
        if (signatures.length != count * Signatures.LENGTH) {
            revert WrongSignatureLength(count * Signatures.LENGTH, signatures.length);
        }
    }
}
