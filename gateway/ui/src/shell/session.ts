import { useQuery, useQueryClient } from '@tanstack/react-query';
import { got, Refused } from '../api/client';

export type Session = { kind: 'operator' | 'key'; name: string; scopes: string[]; tenant?: string; has_password?: boolean };

const path = '/v1/session';

// send calls what has to do with sessions.
async function send<T>(method: string, to = path, body?: unknown): Promise<T> {
  const call = fetch(to, { method, headers: body ? { 'Content-Type': 'application/json' } : {}, ...(body ? { body: JSON.stringify(body) } : {}) });
  return got(
    call.then(async (response) => {
      const answer: unknown = response.headers.get('Content-Type')?.includes('json') ? await response.json() : undefined;
      return response.ok ? { data: answer as T, response } : { error: answer, response };
    }),
  );
}

export const signIn = (name: string, password: string) => send('POST', path, { name, password });
export const openLink = (token: string) => send('POST', `${path}/link`, { token });
export const setPassword = (password: string, current: string) => send('PUT', `${path}/password`, { password, ...(current ? { current } : {}) });

const session = {
  queryKey: ['session'],
  staleTime: 5 * 60_000,
  queryFn: async (): Promise<Session | null> => {
    try {
      return await send<Session>('GET');
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return null;
      throw error;
    }
  },
};

// useSession is who is signed in: null is nobody.
export const useSession = () => useQuery(session);

// useRenewSession is for when a session has begun.
export function useRenewSession() {
  const queries = useQueryClient();
  return () => queries.fetchQuery({ ...session, staleTime: 0 });
}

// useLeave ends the session of this browser, or all that its operator has.
export function useLeave() {
  const queries = useQueryClient();
  return async (which: 'here' | 'everywhere') => {
    await send('DELETE', which === 'here' ? path : '/v1/sessions');
    queries.clear();
    queries.setQueryData(session.queryKey, null);
  };
}
