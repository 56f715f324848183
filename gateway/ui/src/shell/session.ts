import { useQuery, useQueryClient } from '@tanstack/react-query';
import { api, got, Refused, type Schemas } from '../api/client';

export type Session = Schemas['Session'];

export const signIn = (name: string, password: string) => got(api.POST('/v1/session', { body: { name, password } }));
export const openLink = (token: string) => got(api.POST('/v1/session/link', { body: { token } }));
export const setPassword = (password: string, current: string) =>
  got(api.PUT('/v1/session/password', { body: { password, ...(current ? { current } : {}) } }));

const session = {
  queryKey: ['session'],
  staleTime: 5 * 60_000,
  queryFn: async (): Promise<Session | null> => {
    try {
      return await got(api.GET('/v1/session'));
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return null;
      throw error;
    }
  },
};

// useSession is who is signed in: null is nobody.
export const useSession = () => useQuery(session);

// useRenewSession is for when a session has begun, or has changed.
export function useRenewSession() {
  const queries = useQueryClient();
  return () => queries.fetchQuery({ ...session, staleTime: 0 });
}

// leave ends the session of this browser, or all that its operator has. The page begins anew: nothing of what it knew is
// to stay in it.
export async function leave(which: 'here' | 'everywhere') {
  await got(which === 'here' ? api.DELETE('/v1/session') : api.DELETE('/v1/sessions'));
  location.assign('/ui/sign-in');
}
