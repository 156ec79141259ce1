// The vsock ports between host and agent. Main thread.

/** Where the agent listens, unless it is told otherwise. */
export const DEFAULT_AGENT_PORT = 7350;
/** Where the agent calls the host. */
export const DEFAULT_READY_PORT = 7351;
/** Where processes of the guest ask for services of the host. */
export const DEFAULT_SERVICE_PORT = 7352;
