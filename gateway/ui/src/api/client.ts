// The client of the public API: typed by the contract, and all that this UI knows of the server.
import createClient from 'openapi-fetch';
import type { components, paths } from './contract';

export type Schemas = components['schemas'];

export const api = createClient<paths>({ baseUrl: '/' });

// Refused is what the server says when it does not do something: a problem document, or a failure on the way to it.
export class Refused extends Error {
  readonly status: number;
  readonly code: string;
  readonly request?: string;
  readonly details: string[];

  constructor(status: number, problem: Partial<Schemas['Problem']>) {
    super(problem.detail || problem.title || (status ? `The server answered ${status}.` : 'The server does not answer.'));
    this.status = status;
    this.code = problem.code ?? '';
    this.request = problem.request_id;
    this.details = (problem.errors ?? []).map((e) => [e.pointer ?? e.location, e.detail].filter(Boolean).join(': '));
  }
}

type Answer<T> = { data?: T; error?: unknown; response: Response };

// When a session has ended, whoever shows the frame is to know.
let ended: () => void = () => {};
export const whenSessionEnds = (f: () => void) => {
  ended = f;
};

// got is what a call answers with, or throws what was refused.
export async function got<T>(call: Promise<Answer<T>>): Promise<T> {
  let answer: Answer<T>;
  try {
    answer = await call;
  } catch {
    throw new Refused(0, {});
  }
  if (answer.response.ok) return answer.data as T;
  if (answer.response.status === 401) ended();
  const problem = typeof answer.error === 'object' && answer.error ? answer.error : {};
  throw new Refused(answer.response.status, problem);
}
