// What a guest can ask of the whole VM through a legacy device.

/** `reset`: the guest reboots, which ends a microVM. `shutdown`: it powered off. */
export type LegacyAction = 'reset' | 'shutdown';
