"""One file per operation of the proxy's protocol; `router` finds the operation and makes every error answer."""
