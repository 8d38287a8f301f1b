// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

interface IToken {
    function transfer(address to, uint256 amount) external returns (bool);
}

/// @title Baseline: every member sends its own contribution, vote and claim, and the contract counts
/// @notice As cheap as such a design can be: no committee, no signatures to check, no slashing, one word a member for each
/// of the three steps, overwritten epoch by epoch. What a member still owns is one word and the token's transfer.
contract PerTransaction {
    IToken public immutable token;
    uint256 public immutable reward;
    address public immutable operator;

    uint256 public epoch = 1;
    mapping(address member => bool) public joined;
    mapping(address member => bytes32) public contribution;
    mapping(address member => uint256) public contributedIn;
    mapping(address member => uint256) public votedIn;
    mapping(address member => uint256) public score;
    mapping(address member => uint256) public paid;

    event Contributed(address indexed member, uint256 indexed epoch, bytes32 update);
    event Voted(address indexed voter, uint256 indexed epoch, address candidate, uint256 points);
    event Paid(address indexed member, uint256 amount);

    constructor(IToken token_, uint256 reward_) {
        (token, reward, operator) = (token_, reward_, msg.sender);
    }

    function join() external {
        joined[msg.sender] = true;
    }

    function next() external {
        require(msg.sender == operator);
        ++epoch;
    }

    /// @notice The member's update of this epoch, once.
    function contribute(bytes32 update) external {
        require(joined[msg.sender] && contributedIn[msg.sender] < epoch);
        contributedIn[msg.sender] = epoch;
        contribution[msg.sender] = update;
        emit Contributed(msg.sender, epoch, update);
    }

    /// @notice The member's vote of this epoch for one contribution, once.
    function vote(address candidate, uint256 points) external {
        require(joined[msg.sender] && votedIn[msg.sender] < epoch);
        require(contributedIn[candidate] == epoch && points <= 100);
        votedIn[msg.sender] = epoch;
        score[candidate] += points;
        emit Voted(msg.sender, epoch, candidate, points);
    }

    /// @notice Pays what the member's points have earned since its last claim.
    function claim() external {
        uint256 earned = score[msg.sender] * reward;
        uint256 amount = earned - paid[msg.sender];
        paid[msg.sender] = earned;
        emit Paid(msg.sender, amount);
        token.transfer(msg.sender, amount);
    }
}
