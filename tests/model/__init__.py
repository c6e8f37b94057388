"""The protocol of lease, fence, claim, abort and outcome as a state machine, and every state that it can come to."""
