import { keepPreviousData, useInfiniteQuery, useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { api, got, type Schemas } from '../../api/client';
import { said } from '../../parts/States';
import { figure, during } from '../../parts/say';
import { tell, warn } from '../../parts/Toast';

export type Limit = Schemas['LimitState'];
export type Detail = Schemas['LimitDetail'];

// What is held changes with each call, and no change is announced for that: whoever looks asks again.
const often = 2000;

export const useLimits = (after: string | undefined) =>
  useQuery({
    queryKey: ['limits', 'list', after],
    queryFn: () => got(api.GET('/v1/limits', { params: { query: { after, limit: 500 } } })),
    placeholderData: keepPreviousData,
    refetchInterval: often,
  });

export const useLimit = (application: string) =>
  useQuery({
    queryKey: ['limits', 'one', application],
    queryFn: () => got(api.GET('/v1/limits/{application}', { params: { path: { application } } })),
    refetchInterval: often,
  });

export const useUsers = (application: string, enabled: boolean) =>
  useInfiniteQuery({
    queryKey: ['limits', 'users', application],
    queryFn: ({ pageParam }) => got(api.GET('/v1/limits/{application}/users', { params: { path: { application }, query: { after: pageParam, limit: 100 } } })),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (page) => page.next,
    enabled,
  });

// useAct does something with a limit, and says that it is done.
export function useAct<Input>(done: (input: Input) => string, act: (input: Input) => Promise<unknown>, onDone?: () => void) {
  const queries = useQueryClient();
  return useMutation({
    mutationFn: act,
    onSuccess: (_, input) => {
      tell(done(input));
      onDone?.();
    },
    onError: (error) => (onDone ? undefined : warn(said(error))), // a dialog says it itself
    onSettled: () => queries.invalidateQueries({ queryKey: ['limits'] }),
  });
}

// rateOf says a rate as its application's manual would: 100 per 10 s, 40 at once.
export function rateOf(rate: Schemas['Rate'] | undefined): string {
  if (!rate) return 'any number';
  const period = rate.per_seconds === 1 ? 's' : rate.per_seconds === 60 ? 'min' : rate.per_seconds === 3600 ? 'h' : during(rate.per_seconds);
  return `${figure(rate.amount)} per ${period}${rate.burst && rate.burst > usualRoom(rate) ? `, ${figure(rate.burst)} at once` : ''}`;
}

export function limitOf(l: Limit): string {
  const parts = [
    l.user && l.total ? `${rateOf(l.user)} for each user, ${rateOf(l.total)} for all` : l.user ? `${rateOf(l.user)} for each user` : l.total ? rateOf(l.total) : '',
    l.parallel ? `${l.parallel} calls at a time` : '',
  ].filter(Boolean);
  return parts.join('; ') || 'none';
}

// roomOf is the most calls that a rate lets through at once.
export const roomOf = (rate: Schemas['Rate']) => rate.burst || usualRoom(rate);

const usualRoom = (rate: Schemas['Rate']) => Math.max(1, rate.amount / rate.per_seconds);
