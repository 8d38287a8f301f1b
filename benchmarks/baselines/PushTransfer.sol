// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

interface IToken {
    function transfer(address to, uint256 amount) external returns (bool);
}

/// @title Baseline: the operator pays every member in a loop, each epoch
contract PushTransfer {
    IToken public immutable token;
    address public immutable operator;

    constructor(IToken token_) {
        (token, operator) = (token_, msg.sender);
    }

    function pay(address[] calldata accounts, uint256[] calldata amounts) external {
        require(msg.sender == operator && accounts.length == amounts.length);
        for (uint256 i; i < accounts.length; ++i) {
            token.transfer(accounts[i], amounts[i]);
        }
    }
}
