// docs/openapi.yaml as a judge of what the API answers.

import { readFileSync } from 'node:fs';
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js';
import { parse } from 'yaml';

const DOCUMENT_ID = 'file:///docs/openapi.yaml';
const CONFIG_ID = 'file:///schema/vm-config.schema.json';

interface Described {
  readonly $ref?: string;
  readonly content?: Readonly<Record<string, unknown>>;
}

interface Operation {
  readonly summary: string;
  readonly requestBody?: Described;
  readonly responses: Readonly<Partial<Record<string, Described>>>;
}

type Method = 'get' | 'put';

interface Document {
  readonly paths: Readonly<Record<string, Readonly<Partial<Record<Method, Operation>>>>>;
  readonly components: { readonly responses: Readonly<Record<string, Described>> };
}

function fromRoot(path: string): string {
  return readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8');
}

export interface Answer {
  readonly method: string;
  /** From the root. */
  readonly path: string;
  readonly status: number;
  readonly contentType: string | undefined;
  readonly text: string;
}

export class OpenApi {
  readonly document = parse(fromRoot('docs/openapi.yaml')) as Document;
  private readonly ajv = new Ajv2020({ strict: false, allErrors: true });

  constructor() {
    this.ajv.addSchema(JSON.parse(fromRoot('schema/vm-config.schema.json')) as object, CONFIG_ID);
    this.ajv.addSchema({ ...this.document, $id: DOCUMENT_ID });
  }

  /** `GET vmm.ping`, for every endpoint. */
  get endpoints(): string[] {
    return Object.entries(this.document.paths).flatMap(([path, item]) =>
      Object.keys(item).map((method) => `${method.toUpperCase()} ${path.slice(1)}`),
    );
  }

  /** Throws Error with what is wrong with the answer. */
  check({ method, path, status, contentType, text }: Answer): void {
    const name = `${method} ${path}: ${status} ${text}`;
    const local = path.replace(/^\/api\/v1/, '');
    const operation = this.document.paths[local][method.toLowerCase() as Method];
    const place = operation?.responses[String(status)];
    if (place === undefined) throw new Error(`the document has no such answer: ${name}`);
    const component = place.$ref?.split('/').at(-1);
    const response = component === undefined ? place : this.document.components.responses[component];
    if (response.content === undefined) {
      if (text !== '') throw new Error(`there is a body: ${name}`);
      return;
    }
    if (contentType?.split(';')[0] !== 'application/json') throw new Error(`the content is ${contentType}: ${name}`);
    const pointer =
      component === undefined
        ? `#/paths/${local.replaceAll('/', '~1')}/${method.toLowerCase()}/responses/${status}`
        : `#/components/responses/${component}`;
    const validate = this.compile(`${pointer}/content/application~1json/schema`);
    if (!validate(JSON.parse(text))) throw new Error(`${this.ajv.errorsText(validate.errors)} in ${name}`);
  }

  private compile(pointer: string): ValidateFunction {
    return this.ajv.getSchema(DOCUMENT_ID + pointer) ?? this.ajv.compile({ $ref: DOCUMENT_ID + pointer });
  }
}
