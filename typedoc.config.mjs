// How `npm run docs` makes docs/reference of the docstrings: what it takes, how it is laid out, and what it insists on. Plain
// JavaScript, for typedoc loads it as it is.
//
// A page for each file of src/library and one for tsvmm/jest. Nothing in them depends on when, where or from which commit they
// were made. Whatever is public and has no docstring is a warning, and warnings are failures.

import { CommentTag, Converter, ReflectionKind } from 'typedoc';

/** @type {Partial<import('typedoc').TypeDocOptions & import('typedoc-plugin-markdown').PluginOptions>} */
export default {
  name: 'tsvmm',
  tsconfig: 'tsconfig.json',
  entryPoints: [
    'src/library/machine.ts',
    'src/library/configuration.ts',
    'src/library/console.ts',
    'src/library/vsock.ts',
    'src/library/agent.ts',
    'src/library/images.ts',
    'src/library/observing.ts',
    'src/jest/index.ts',
  ],
  out: 'docs/reference',
  readme: 'src/library/README.md',
  plugin: ['typedoc-plugin-markdown', groupErrors, tellUnionMembers],

  // What is public, and that all of it is described. Types are checked by tsc, which need not be done twice.
  excludePrivate: true,
  excludeInternal: true,
  excludeExternals: true,
  skipErrorChecking: true,
  // Links are to files beside docs/reference, not beside the source.
  validation: { notExported: true, notDocumented: true, invalidLink: true, invalidPath: false },
  treatWarningsAsErrors: true,
  treatValidationWarningsAsErrors: true,
  logLevel: 'Warn',

  // What it looks like.
  disableSources: true,
  sort: ['source-order'],
  sortEntryPoints: false,
  groupOrder: ['Functions', 'Classes', 'Interfaces', 'Type Aliases', 'Variables', 'Errors'],
  router: 'module',
  mergeReadme: true,
  hideBreadcrumbs: true,
  hidePageHeader: true,
  useCodeBlocks: true,
  expandObjects: true,
  indexFormat: 'table',
  parametersFormat: 'table',
  interfacePropertiesFormat: 'table',
  propertyMembersFormat: 'table',
  typeAliasPropertiesFormat: 'table',
  typeDeclarationFormat: 'table',
  tableColumnSettings: { hideModifiers: true, hideInherited: true, hideOverrides: true },
  pageTitleTemplates: { module: ({ name }) => name },
};

/** A plugin: errors and their codes are the last group of their page. */
export function groupErrors(app) {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const reflection of project.getReflectionsByKind(ReflectionKind.Class | ReflectionKind.TypeAlias)) {
      if (!/Error(Code)?$/.test(reflection.name)) continue;
      reflection.comment?.blockTags.push(new CommentTag('@group', [{ kind: 'text', text: 'Errors' }]));
    }
  });
}

/**
 * A plugin: what is said of each member of a union of words, such as the codes of an error, becomes a table. The theme leaves
 * it out.
 */
export function tellUnionMembers(app) {
  app.converter.on(Converter.EVENT_RESOLVE_END, ({ project }) => {
    for (const alias of project.getReflectionsByKind(ReflectionKind.TypeAlias)) {
      const { type, comment, name } = alias;
      if (type?.type !== 'union' || !type.types.every((member) => member.type === 'literal')) continue;
      const summaries = type.elementSummaries ?? [];
      const missing = type.types.filter((_member, index) => (summaries[index] ?? []).length === 0);
      if (missing.length > 0 && (summaries.length > 0 || name.endsWith('Code'))) {
        app.logger.warn(`${name}: ${missing.map(({ value }) => value).join(', ')} are not documented`);
      }
      if (summaries.length === 0 || comment === undefined) continue;
      const rows = type.types.map(({ value }, index) => [
        { kind: 'text', text: `\n| \`${value}\` | ` },
        ...(summaries[index] ?? []).map((part) => ({ ...part, text: part.text.replaceAll(/\s*\n\s*/g, ' ') })),
        { kind: 'text', text: ' |' },
      ]);
      comment.summary.push({ kind: 'text', text: '\n\n| Member | Meaning |\n| ------ | ------ |' }, ...rows.flat());
    }
  });
}
