// Jest runs what tsc made of test/, as the ES modules it is: nothing is transformed. Which tests is for test/run.mjs to
// say, group by group; without it, all of them.

/** Where the groups of tests lie in dist/test. What is in no other group is a unit test: it needs no KVM. */
export const GROUPS = {
  unit: { matches: ['<rootDir>/dist/test/**/*.test.js'], ignores: ['<rootDir>/dist/test/e2e/'] },
  kvm: { matches: ['<rootDir>/dist/test/e2e/**/*.test.js'], ignores: ['<rootDir>/dist/test/e2e/linux/'] },
  linux: { matches: ['<rootDir>/dist/test/e2e/linux/**/*.test.js'], ignores: [] },
};

const group = GROUPS[process.env.TSVMM_TEST_GROUP] ?? { matches: ['<rootDir>/dist/test/**/*.test.js'], ignores: [] };

/** @type {import('jest').Config} */
export default {
  testEnvironment: 'node',
  roots: ['<rootDir>/dist/test'],
  testMatch: group.matches,
  testPathIgnorePatterns: ['/node_modules/', ...group.ignores],
  transform: {},
  setupFilesAfterEnv: ['<rootDir>/dist/test/support/each-file.js'],
  reporters: ['default', '<rootDir>/test/reporter.mjs'],
};
