import { keepPreviousData, useQuery } from '@tanstack/react-query';
import { api, got } from '../../api/client';

export type Range = '1h' | '24h' | '7d' | '30d';
export const ranges: readonly { value: Range; label: string }[] = [
  { value: '1h', label: '1 h' },
  { value: '24h', label: '24 h' },
  { value: '7d', label: '7 d' },
  { value: '30d', label: '30 d' },
];

export const rangeOf = (text: string | undefined): Range => ranges.find((r) => r.value === text)?.value ?? '24h';

export const useOverview = (range: Range) =>
  useQuery({
    queryKey: ['overview', range],
    queryFn: () => got(api.GET('/v1/overview', { params: { query: { range } } })),
    placeholderData: keepPreviousData,
  });

export const useHeat = (of: 'topologies' | 'applications', range: Range) =>
  useQuery({
    queryKey: ['overview', 'heat', of, range],
    queryFn: () => got(api.GET(`/v1/heatmaps/${of}`, { params: { query: { range } } })),
    placeholderData: keepPreviousData,
  });

export const useLimits = () =>
  useQuery({ queryKey: ['limits', 'most'], queryFn: () => got(api.GET('/v1/limits', { params: { query: { limit: 500 } } })) });

export const useWorkers = () =>
  useQuery({ queryKey: ['workers', 'all'], queryFn: () => got(api.GET('/v1/workers', { params: { query: { limit: 500 } } })) });
