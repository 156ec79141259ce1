// Where in a spec's file a field is, for messages: by line and column, as editors take them. Main thread.

import { isAlias, isMap, isScalar, isSeq, parseDocument, type Document, type Node } from 'yaml';
import { placeOf } from '../config/config-file.js';
import type { FieldNames } from '../config/rules/rule.js';

/** Fields of a spec by their place in the file, whose text that is. JSON is YAML, too. */
export function fieldsIn(file: string, text: string): FieldNames {
  // Only when there is something to say.
  let document: Document | undefined;
  const placeOfField = (field: string): string => {
    document ??= parseDocument(text, { prettyErrors: false });
    let node: unknown = document.contents;
    let offset = isNode(node) ? node.range?.[0] : undefined;
    for (const key of keysOf(field)) {
      if (isAlias(node)) node = node.resolve(document);
      if (isMap(node)) {
        const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === key);
        // What is missing is missing where its siblings are.
        if (pair === undefined) break;
        offset = (pair.key as Node).range?.[0] ?? offset;
        node = pair.value;
      } else if (isSeq(node)) {
        node = node.items[Number(key)];
        if (!isNode(node)) break;
        offset = node.range?.[0] ?? offset;
      } else break;
    }
    if (offset === undefined) return file;
    const { line, column } = placeOf(text, offset);
    return `${file}:${line}:${column}`;
  };
  return (field) => {
    const isWhole = field === 'config';
    const place = placeOfField(isWhole ? '' : field);
    return { option: file, key: field, label: `${place}: ${isWhole ? 'the spec' : field}` };
  };
}

function isNode(value: unknown): value is Node {
  return isMap(value) || isSeq(value) || isScalar(value) || isAlias(value);
}

/** `tests[0].name` in its parts. */
function keysOf(field: string): string[] {
  return field.split(/[.[\]]+/).filter((part) => part !== '');
}
