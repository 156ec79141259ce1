// A client of the API on its Unix socket; every answer is checked against docs/openapi.yaml.

import { request, type IncomingHttpHeaders } from 'node:http';
import { OpenApi } from './openapi.js';

export interface ApiAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** What the body says, if there is one. */
  readonly body: unknown;
}

export const openApi = new OpenApi();

/** Sends anything to anywhere; only what is an endpoint and has its method is checked. */
export async function callApi(socketPath: string, method: string, name: string, body?: unknown): Promise<ApiAnswer> {
  const path = name.startsWith('/') ? name : `/api/v1/${name}`;
  const answer = await exchange(socketPath, method, path, body);
  if (openApi.endpoints.includes(`${method} ${name}`)) {
    openApi.check({
      method,
      path,
      status: answer.status,
      contentType: answer.headers['content-type'],
      text: answer.text,
    });
  }
  return answer;
}

function exchange(socketPath: string, method: string, path: string, body: unknown): Promise<ApiAnswer> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, method, path, agent: false }, (incoming) => {
      let text = '';
      incoming.setEncoding('utf8');
      incoming.on('data', (piece: string) => {
        text += piece;
      });
      incoming.on('end', () => {
        const { statusCode: status = 0, headers } = incoming;
        resolve({ status, headers, text, body: text === '' ? undefined : (JSON.parse(text) as unknown) });
      });
      incoming.on('error', reject);
    });
    outgoing.on('error', reject);
    if (body !== undefined) outgoing.write(typeof body === 'string' ? body : JSON.stringify(body));
    outgoing.end();
  });
}
