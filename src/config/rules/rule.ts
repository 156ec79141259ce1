// What a rule is: it looks at one section of a well-typed configuration and complains about fields of it. The same
// rules judge the command line and the library, which name the fields differently.

import { type Complaint, ConfigError } from '../config-error.js';

/** How the caller knows a configuration field such as `vsock.cid` or `disks[1].path`. */
export type FieldNames = (field: string) => {
  readonly option: string;
  readonly key?: string | undefined;
  readonly label: string;
};

/** Library users know a field by its path in the configuration. */
export const byPath: FieldNames = (field) => {
  const [option = field, ...rest] = field.split('.');
  return { option, key: rest.length === 0 ? undefined : rest.join('.'), label: field };
};

/** Ends the check with a ConfigError about one field. */
export type Complain = (field: string, value: unknown, complaint: Complaint, cause?: unknown) => never;

export function complainWith(names: FieldNames): Complain {
  return (field, value, complaint, cause) => {
    throw new ConfigError({ ...names(field), value }, complaint, cause === undefined ? undefined : { cause });
  };
}
