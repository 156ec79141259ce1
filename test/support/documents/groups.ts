// The groups of tests (jest.config.js) in which blocks of documents run.

export const GROUP_NAMES = ['unit', 'kvm', 'linux'] as const;
export type GroupName = (typeof GROUP_NAMES)[number];
