// The JSON Schema of a configuration, for editors and for programs in other languages: made from the schema that judges
// configurations, with the descriptions that the options have. schema/ holds it as a file.

import { z } from 'zod';
import { vmConfigSchema } from './schema.js';
import { VM_OPTIONS } from './vm-options.js';

/** A JSON Schema, as far as it is looked into here. */
interface Schema {
  type?: string;
  description?: string;
  properties?: Record<string, Schema>;
  items?: Schema;
}

export function vmConfigJsonSchema(): object {
  const { $schema, ...schema } = z.toJSONSchema(vmConfigSchema, { io: 'input', target: 'draft-2020-12' });
  describe(schema as Schema, '', descriptions());
  return { $schema, title: 'A virtual machine of tsvmm', ...schema };
}

/** By path, `[]` for any index. */
function descriptions(): ReadonlyMap<string, string> {
  const entries = VM_OPTIONS.flatMap(({ name, help, keys, labels }) =>
    Object.entries(labels).map(([field, label]) => {
      const key = label === `--${name}` ? undefined : keys.find((each) => label === `--${name} ${each.name}`);
      return [field, key?.help ?? help] as const;
    }),
  );
  return new Map(entries);
}

function describe(schema: Schema, path: string, texts: ReadonlyMap<string, string>): void {
  const text = texts.get(path);
  if (text !== undefined) schema.description = text;
  // The rules refuse every number that is not whole.
  if (schema.type === 'number') schema.type = 'integer';
  if (schema.items !== undefined) describe(schema.items, `${path}[]`, texts);
  for (const [key, inner] of Object.entries(schema.properties ?? {})) {
    describe(inner, path === '' ? key : `${path}.${key}`, texts);
  }
}
